"""The access log: a line for each request, without its text, its query string or its key; and the id of each request."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .faults import ANTHROPIC, dialect_of

_LONGEST_PATH = 200


class AccessLog:
    """ASGI middleware: the outermost one, so that refused requests are logged too.

    Each request gets an id: `scope["state"]["request_id"]`, and the header `x-request-id` of its answer, for callers of
    /v1/messages also `request-id`. `scope["state"]["tokens"]`, where the app has set it, is logged as the
    number of tokens of the answer. A line has

        time (UTC)  id  method  path  status  milliseconds  tokens

    with `-` for what is not known; the status is `-` where the client left before there was one. write: gets each line.
    """

    def __init__(self, app: ASGIApp, write: Callable[[str], None]) -> None:
        self._app = app
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        names = [b"x-request-id", b"request-id"] if dialect_of(scope["path"]) == ANTHROPIC else [b"x-request-id"]
        status = "-"

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                others = [pair for pair in message.get("headers", []) if pair[0].lower() not in names]
                message = {**message, "headers": [*others, *((name, request_id.encode()) for name in names)]}
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            status += " cut"
            raise
        finally:
            self._write(_line(scope, status, time.perf_counter() - began))


def _line(scope: Scope, status: str, seconds: float) -> str:
    state = scope["state"]
    path = quote(scope["path"][:_LONGEST_PATH], safe="/@.:-_~")
    method = quote(scope["method"][:16], safe="")
    tokens = state.get("tokens", "-")
    return f"{now()} {state['request_id']} {method} {path} {status} {seconds * 1000:.0f}ms {tokens}"


def now() -> str:
    """The time as log lines have it: 2026-11-28T16:10:56.123Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
