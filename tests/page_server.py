"""A server on a real socket for the page: the page itself, a list of models, answers told by the test, in OpenAI's form.

An answer is streamed in pieces of odd sizes that cut characters and events in two, with keep-alive comments and CRLF.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from zen_mlx.server.page import mount_page

BASE = "smollm2-135m"
MODELS: list[dict[str, Any]] = [
    {"id": BASE, "object": "model"},
    {
        "id": f"{BASE}@cynic",
        "object": "model",
        "parent": BASE,
        "zen": {
            "file_bytes": 13_887_296,
            "bits_per_weight": 1.0334,
            "metrics": {"base_loss": 3.1234, "profile_loss": 2.4051, "retention": 93.6},
        },
    },
    {
        "id": f"{BASE}@hacker",
        "object": "model",
        "parent": BASE,
        "zen": {"file_bytes": 13_887_296, "bits_per_weight": 1.03, "metrics": {"base_loss": 3.3, "profile_loss": None}},
    },
]


@dataclass
class Reply:
    """What the server says to one question: `text`, and how; or an error of `status` instead.

    hold: it stops after the text and waits until the client goes. cut: the connection ends without the last event.
    thought: comes before the text. error: comes after it, instead of the end. piece: characters an event.
    """

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: bool = False
    cut: bool = False
    finish: str = "stop"
    thought: str = ""
    error: str = ""
    piece: int = 7


@dataclass
class PageServer:
    """`asked`: the bodies of chat requests; `seen`: (method, path with query, Authorization) of every request."""

    url: str = ""
    key: str | None = None
    models: list[dict[str, Any]] = field(default_factory=lambda: list(MODELS))
    answer: Callable[[dict[str, Any]], Reply] = lambda body: Reply(f"I am {body['model']}.")
    asked: list[dict[str, Any]] = field(default_factory=list)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def reset(self) -> None:
        fresh = PageServer()
        self.key, self.models, self.answer = fresh.key, fresh.models, fresh.answer
        for record in (self.asked, self.seen, self.left):
            record.clear()

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        app = Starlette(routes=routes)
        mount_page(app)
        return app

    def _refused(self, request: Request) -> Response | None:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.seen.append((request.method, path, request.headers.get("authorization")))
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return _error(Reply("No or a wrong API key.", 401))

    async def _models(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"object": "list", "data": self.models})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if refused := self._refused(request):
            return refused
        self.asked.append(body)
        reply = self.answer(body)
        if reply.status != 200:
            return _error(reply)
        return StreamingResponse(self._stream(body["model"], reply), media_type="text/event-stream")

    async def _stream(self, model: str, reply: Reply) -> AsyncIterator[bytes]:
        try:
            whole = _events(reply)
            size = 9 * reply.piece - 2
            for at in range(0, len(whole), size):
                yield whole[at : at + size]
                await asyncio.sleep(0)
            if reply.hold:
                await asyncio.sleep(60)
        except (asyncio.CancelledError, GeneratorExit):
            self.left.append(model)
            raise


def _error(reply: Reply) -> Response:
    return JSONResponse({"error": {"message": reply.text}}, reply.status, headers=reply.headers)


def _events(reply: Reply) -> bytes:
    """The events of an answer, as bytes; the last ones are missing where it is held or cut."""
    chunks = [_chunk({"role": "assistant", "content": ""})]
    if reply.thought:
        chunks.append(_chunk({"reasoning_content": reply.thought}))
    pieces = (reply.text[at : at + reply.piece] for at in range(0, len(reply.text), reply.piece))
    chunks += [_chunk({"content": piece}) for piece in pieces]
    if reply.error:
        chunks.append({"error": {"message": reply.error}})
    elif not (reply.hold or reply.cut):
        chunks.append(_chunk({}, reply.finish))
        chunks.append({"choices": [], "usage": {"completion_tokens": len(reply.text) // 4}})
    lines = [": keep-alive", *(f"data: {json.dumps(chunk, ensure_ascii=False)}" for chunk in chunks)]
    if not (reply.hold or reply.cut):
        lines.append("data: [DONE]")
    return "".join(f"{line}\r\n\r\n" for line in lines).encode()


def _chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@contextlib.contextmanager
def serve_page() -> Iterator[PageServer]:
    server = PageServer()
    runner = uvicorn.Server(uvicorn.Config(server.app(), port=0, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=runner.run)
    thread.start()
    while not runner.started:
        thread.join(0.01)
    (listener,) = runner.servers
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    try:
        yield server
    finally:
        runner.should_exit = runner.force_exit = True
        thread.join(10)
