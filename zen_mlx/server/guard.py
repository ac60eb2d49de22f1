"""The guard before the app: who may call (Host, Origin, API key), with what (content type, size), and for how long.

ASGI middleware, in this order; what is refused gets an error in the caller's dialect and never reaches the app:

    Host            localhost, a loopback address, the address that the connection reached, or one of `allow_host`; else
                    403. A page that points its own name at this machine (DNS rebinding) sends that name.
    Origin          a browser's request from another page: 403, unless `allow_origin` names the page. Without it there is
                    no CORS header in any answer.
    API key         `Authorization: Bearer KEY` or `x-api-key: KEY`: 401. Not asked for by /health and the page at /.
    admin routes    need a key without a list of profiles, also where the others need none: 401, 403.
    content type    application/json for every body, else 415.
    body            more than `max_body_bytes`: 413; not there after `body_timeout_s`: 408.
    answer          not complete after `request_timeout_s`: 504, or cut off if it has begun.

`scope["state"]["profiles"]` tells the app which profiles the key may use: a frozenset of names, in which `base` stands
for the base alone, or None for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config import ServeOptions
from .faults import Fault, response_of
from .head import Head
from .keys import Keys
from .origins import Origins, host_fault

ADMIN = "/admin"
OPEN = {"/", "/health"}
_JSON = "application/json"
_BINARY = "application/octet-stream"
_SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_OURS_ONLY = ((b"cross-origin-resource-policy", b"same-origin"),)


class Guard:
    """See the module. keys: None where no key is asked for; then the admin routes are closed."""

    def __init__(self, app: ASGIApp, options: ServeOptions, keys: Keys | None) -> None:
        self._app = app
        self._options = options
        self._keys = keys
        self._hosts = frozenset(name.lower().rstrip(".") for name in options.allow_host)
        self._origins = Origins(options.allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = Head(scope)
        cors = self._origins.headers(head)
        answer = _Answer(head, send, [*_SAFE_HEADERS, *(cors or _OURS_ONLY)])
        if fault := host_fault(head, self._hosts) or self._origins.fault(head):
            await answer.refuse(fault)
        elif cors and head.is_preflight:
            await answer.allow(self._origins.preflight(head))
        elif fault := self._key_fault(head) or self._body_fault(head):
            await answer.refuse(fault)
        else:
            await self._run(head, _Body(self._options, head, receive, answer), answer)

    async def _run(self, head: Head, body: _Body, answer: _Answer) -> None:
        deadline = asyncio.timeout(self._options.request_timeout_s)
        try:
            async with deadline:
                await self._app(head.scope, body, answer)
        except ClientDisconnect:
            return
        except TimeoutError:
            if not deadline.expired():
                raise
            seconds = self._options.request_timeout_s
            await answer.refuse(Fault(504, f"the answer took longer than {seconds:g} seconds", code="timeout"))

    def _key_fault(self, head: Head) -> Fault | None:
        """Whether the caller may do this; what its key may use goes to the app."""
        head.state["profiles"] = None
        admin = head.path == ADMIN or head.path.startswith(f"{ADMIN}/")
        if self._keys is None:
            return Fault(401, "admin routes need an API key: start the server with --api-key-file") if admin else None
        if head.path in OPEN and head.method in ("GET", "HEAD"):
            return None
        found = [key for text in head.presented if (key := self._keys.find(text)) is not None]
        if not found:
            what = (
                "unknown API key" if head.presented else "no API key: send Authorization: Bearer KEY or x-api-key: KEY"
            )
            return Fault(401, what, code="invalid_api_key")
        head.state["profiles"] = found[0].profiles
        if admin and found[0].profiles is not None:
            return Fault(403, "this API key is for some profiles only and may not use admin routes")
        return None

    def _body_fault(self, head: Head) -> Fault | None:
        if not head.has_body:
            return None
        kinds = (_JSON, _BINARY, "") if is_upload(head) else (_JSON,)  # curl -T says nothing of what it sends
        kind, _, rest = head.get("content-type", "").partition(";")
        charset = rest.partition("charset=")[2].strip().strip('"').lower()
        if kind.strip().lower() not in kinds or charset not in ("", "utf-8"):
            what = (
                f"a profile's bytes, sent with content-type: {_BINARY}"
                if is_upload(head)
                else f"JSON, sent with content-type: {_JSON}"
            )
            return Fault(415, f"the body must be {what}")
        limit = body_limit(self._options, head)
        return _too_large(limit) if (head.content_length or 0) > limit else None


def is_upload(head: Head) -> bool:
    """Whether the body may be the bytes of a profile."""
    return head.path.startswith(f"{ADMIN}/")


def body_limit(options: ServeOptions, head: Head) -> int:
    """Bytes that the body of this request may have."""
    return options.max_upload_bytes if is_upload(head) else options.max_body_bytes


def _too_large(limit: int) -> Fault:
    return Fault(413, f"the body is larger than {limit} bytes", code="request_too_large")


class _Answer:
    """`send` with our headers; refuses in the place of the app, whose own answer then goes nowhere."""

    def __init__(self, head: Head, send: Send, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._head = head
        self._send = send
        self._headers = list(headers)
        self.started = self.closed = False

    async def __call__(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self.started = True
            own = [(name.lower(), value) for name, value in message.get("headers", [])]
            given = {name for name, _ in own}
            message = {**message, "headers": [*own, *(pair for pair in self._headers if pair[0] not in given)]}
        await self._send(message)

    async def refuse(self, fault: Fault, close: bool = False) -> None:
        """Answer with `fault`, unless an answer has begun: that one stays incomplete, which ends the connection."""
        if not self.started:
            response = response_of(self._head.path, fault, self._head.state.get("request_id"))
            if fault.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            if close:
                response.headers["connection"] = "close"
            await response(self._head.scope, _nothing, self)
        self.closed = True

    async def allow(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer a preflight request."""
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b""})


class _Body:
    """`receive` with limits. Past one of them the caller has its error, and the app sees a client that left.

    JSON has `body_timeout_s` for all of it; an upload has it for each piece.
    """

    def __init__(self, options: ServeOptions, head: Head, receive: Receive, answer: _Answer) -> None:
        self._receive = receive
        self._answer = answer
        self._limit = body_limit(options, head)
        self._seconds = options.body_timeout_s
        self._ends = None if is_upload(head) else asyncio.get_running_loop().time() + self._seconds
        self._seen = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._answer.closed:
            return {"type": "http.disconnect"}
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._seconds) if self._ends is None else asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            return await self._end(Fault(408, f"the body did not arrive within {self._seconds:g} seconds"))
        self._seen += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message if self._seen <= self._limit else await self._end(_too_large(self._limit))

    async def _end(self, fault: Fault) -> Message:
        await self._answer.refuse(fault, close=fault.status == 408)
        return {"type": "http.disconnect"}


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
