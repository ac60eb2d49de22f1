"""Anthropic's Messages: `POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..engine import request as engine
from .anthropic_wire import Conversation, CountBody, MessagesBody
from .documents import answers_of
from .faults import ANTHROPIC, Fault, body_of
from .prompts import Talk, prepare
from .reading import TEXT
from .running import Answer, Answers, Called, Ended, Event, Said, sampling_of
from .shared import Serving
from .sse import EventStream, sse, whole
from .tools import Call

Block = dict[str, Any]
_PING = sse({"type": "ping"}, "ping")


def router(serving: Serving) -> APIRouter:
    """The routes of Messages."""
    routes = APIRouter()

    @routes.post(
        "/v1/messages",
        summary="Continue a conversation",
        responses=answers_of(ANTHROPIC, ["id", "type", "content"], "text/event-stream"),
    )
    async def messages(body: MessagesBody, request: Request) -> Response:
        profile = serving.profile_of(body.model, request)
        prompt = await asyncio.to_thread(prepare, serving, _talk(body))
        wanted = engine.Request(
            ids=prompt.ids,
            profile=profile,
            sampling=sampling_of(serving, len(prompt.ids), body.max_tokens, body.temperature, body.top_p),
            stop=tuple(body.stop_sequences or ()),
            grammar=prompt.grammar,
        )
        answers = Answers(serving, prompt, [wanted])
        head = _head(serving.model_of(profile), len(prompt.ids))
        if not body.stream:
            return await whole(request, answers, lambda collected: _whole(head, collected[0]))
        return EventStream(request, answers, _Stream(head).chunks(answers), _failed)

    @routes.post(
        "/v1/messages/count_tokens",
        summary="Count the tokens of a conversation",
        responses=answers_of(ANTHROPIC, ["input_tokens"]),
    )
    async def count_tokens(body: CountBody, request: Request) -> dict[str, int]:
        serving.known_profile(body.model, request)
        prompt = await asyncio.to_thread(prepare, serving, _talk(body))
        return {"input_tokens": len(prompt.ids)}

    return routes


def _talk(body: Conversation) -> Talk:
    messages = body.templated()
    last = messages[-1]
    continues = last["role"] == "assistant" and "tool_calls" not in last and bool(last["content"].strip())
    return Talk(messages, body.chosen_tools(), body.format(), body.thinks(), continues, "output_config.format")


def _head(model: str, prompt_tokens: int) -> dict[str, Any]:
    """The message before anything was answered."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": prompt_tokens, "output_tokens": 0},
    }


def _whole(head: dict[str, Any], answer: Answer) -> dict[str, Any]:
    assert answer.finish is not None
    content: list[Block] = [_thinking(answer.thought)] if answer.thought else []
    if answer.text or not answer.calls:
        content.append(_text(answer.text))
    content += [_tool_use(call) | {"input": json.loads(call.arguments)} for call in answer.calls]
    stop = _stop(answer.finish, bool(answer.calls))
    return head | stop | {"content": content, "usage": _usage(answer.finish)}


def _stop(finish: engine.Finish, called: bool) -> dict[str, Any]:
    if finish.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if finish.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}


def _usage(finish: engine.Finish) -> dict[str, int]:
    """Anthropic counts the cached tokens of a prompt apart."""
    return {
        "input_tokens": finish.prompt_tokens - finish.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": finish.cached_tokens,
        "output_tokens": finish.completion_tokens,
    }


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _thinking(text: str) -> Block:
    return {"type": "thinking", "thinking": text, "signature": ""}


def _tool_use(call: Call) -> Block:
    return {"type": "tool_use", "id": call.id or f"toolu_{uuid.uuid4().hex[:24]}", "name": call.name, "input": {}}


def _failed(fault: Fault) -> str:
    return sse(body_of(ANTHROPIC, fault), "error")


class _Stream:
    """The events of one message; blocks are opened and closed as the kind of what comes changes."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = head
        self._open: str | None = None
        self._blocks = 0

    async def chunks(self, answers: Answers) -> AsyncIterator[str]:
        yield _event("message_start", message=self._head)
        yield _PING
        async for event in answers.events():
            if event is None:
                yield _PING
                continue
            for chunk in self._chunks(event):
                yield chunk

    def _chunks(self, event: Event) -> Iterator[str]:
        if isinstance(event, Said):
            yield from self._said(event)
            return
        if isinstance(event, Ended) and not self._blocks and self._open is None:
            yield from self._begin(TEXT, _text(""))
        yield from self._close()
        if isinstance(event, Called):
            yield from self._called(event.call)
        else:
            yield _event("message_delta", delta=_stop(event.finish, event.called), usage=_usage(event.finish))
            yield _event("message_stop")

    def _said(self, event: Said) -> Iterator[str]:
        plain = event.kind == TEXT
        if event.kind != self._open:
            yield from self._close()
            yield from self._begin(event.kind, _text("") if plain else _thinking(""))
        delta = (
            {"type": "text_delta", "text": event.text} if plain else {"type": "thinking_delta", "thinking": event.text}
        )
        yield self._delta(delta)

    def _called(self, call: Call) -> Iterator[str]:
        yield from self._begin("call", _tool_use(call))
        yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        yield from self._close()

    def _begin(self, kind: str, block: Block) -> Iterator[str]:
        self._open = kind
        yield _event("content_block_start", index=self._blocks, content_block=block)

    def _close(self) -> Iterator[str]:
        if self._open is not None:
            yield _event("content_block_stop", index=self._blocks)
            self._open = None
            self._blocks += 1

    def _delta(self, delta: Block) -> str:
        return _event("content_block_delta", index=self._blocks, delta=delta)


def _event(kind: str, **fields: Any) -> str:
    return sse({"type": kind, **fields}, kind)
