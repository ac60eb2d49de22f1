"""Answers over HTTP: whole as JSON, or as server-sent events; either way they are cancelled when the client leaves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .faults import Fault, fault_of, log_unexpected, request_id_of
from .running import Answer, Answers, unless_gone

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
CLIENT_LEFT = 499


class EventStream(StreamingResponse):
    """`chunks`, made from `answers`. failed: the chunks that tell a caller of what went wrong after the beginning."""

    def __init__(
        self,
        request: Request,
        answers: Answers,
        chunks: AsyncIterator[str],
        failed: Callable[[Fault], str],
        media_type: str = "text/event-stream",
    ) -> None:
        self._answers = answers
        self._state = request.state
        told = _told(request, chunks, failed)
        super().__init__(told, headers={"cache-control": "no-cache", "x-accel-buffering": "no"}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()
            self._state.tokens = self._answers.tokens


async def whole(request: Request, answers: Answers, document: Callable[[list[Answer]], dict[str, Any]]) -> Response:
    """One JSON document of all answers."""
    try:
        collected = await unless_gone(request.receive, answers.collect())
    finally:
        answers.cancel()
        request.state.tokens = answers.tokens
    return Response(status_code=CLIENT_LEFT) if collected is None else JSONResponse(document(collected))


def sse(data: dict[str, Any], event: str | None = None) -> str:
    """One event; `event` is its name."""
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {json.dumps(data, separators=(',', ':'))}\n\n"


async def _told(request: Request, chunks: AsyncIterator[str], failed: Callable[[Fault], str]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        log_unexpected(error, request_id_of(request))
        yield failed(fault_of(error))
