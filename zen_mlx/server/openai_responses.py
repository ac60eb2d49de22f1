"""OpenAI's Responses, stateless: `POST /v1/responses`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..engine import request as engine
from .documents import answers_of
from .faults import OPENAI, Fault
from .prompts import Talk, prepare
from .reading import TEXT
from .responses_wire import ResponsesBody
from .running import Answer, Answers, Called, Ended, Event, Said, sampling_of
from .shared import Serving
from .sse import KEEP_ALIVE, EventStream, sse, whole
from .tools import Call

Item = dict[str, Any]


def router(serving: Serving) -> APIRouter:
    """The route of Responses, and of those that are asked for later: there are none."""
    routes = APIRouter()

    @routes.post(
        "/v1/responses",
        summary="Continue a conversation, without keeping it",
        responses=answers_of(OPENAI, ["id", "object", "status", "output"], "text/event-stream"),
    )
    async def respond(body: ResponsesBody, request: Request) -> Response:
        profile = serving.profile_of(body.model, request)
        talk = Talk(body.messages(), body.chosen_tools(), body.format(), body.thinks(), format_field="text.format")
        prompt = await asyncio.to_thread(prepare, serving, talk)
        sampling = sampling_of(serving, len(prompt.ids), body.max_output_tokens, body.temperature, body.top_p)
        wanted = engine.Request(prompt.ids, profile, sampling, grammar=prompt.grammar)
        answers = Answers(serving, prompt, [wanted])
        head = _head(serving.model_of(profile), body, wanted)
        if not body.stream:
            return await whole(request, answers, lambda collected: _whole(head, collected[0]))
        stream = _Stream(head)
        return EventStream(request, answers, stream.chunks(answers), stream.failed)

    return routes


def _head(model: str, body: ResponsesBody, wanted: engine.Request) -> dict[str, Any]:
    """The response before anything was answered."""
    echoed = body.model_dump(
        mode="json", by_alias=True, exclude_none=True, include={"text", "tool_choice", "tools", "reasoning"}
    )
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": echoed.get("reasoning", {"effort": None, "summary": None}),
        "store": False,
        "temperature": wanted.sampling.temperature,
        "text": echoed.get("text") or {"format": {"type": "text"}},
        "tool_choice": echoed.get("tool_choice", "auto"),
        "tools": echoed.get("tools", []),
        "top_p": wanted.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _whole(head: dict[str, Any], answer: Answer) -> dict[str, Any]:
    assert answer.finish is not None
    ending = _status(answer.finish)
    output: list[Item] = [_reasoning(_id("rs"), answer.thought, "completed")] if answer.thought else []
    if answer.text or not answer.calls:
        output.append(_message(_id("msg"), answer.text, ending))
    output += [_function_call(_id("fc"), call, "completed") for call in answer.calls]
    return head | _ending(answer.finish) | {"output": output}


def _ending(finish: engine.Finish) -> dict[str, Any]:
    details = {"reason": "max_output_tokens"} if finish.finish_reason == "length" else None
    return {"status": _status(finish), "incomplete_details": details, "usage": _usage(finish)}


def _status(finish: engine.Finish) -> str:
    return "incomplete" if finish.finish_reason == "length" else "completed"


def _usage(finish: engine.Finish) -> dict[str, Any]:
    return {
        "input_tokens": finish.prompt_tokens,
        "input_tokens_details": {"cached_tokens": finish.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": finish.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(id: str, text: str | None, status: str) -> Item:
    content = [] if text is None else [_text(text)]
    return {"type": "message", "id": id, "role": "assistant", "status": status, "content": content}


def _reasoning(id: str, text: str | None, status: str) -> Item:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": id, "summary": [], "content": content, "status": status}


def _function_call(id: str, call: Call, status: str) -> Item:
    call_id = call.id or _id("call")
    common = {"type": "function_call", "id": id, "call_id": call_id, "name": call.name}
    return common | {"arguments": call.arguments, "status": status}


class _Stream:
    """The events of one response; items are opened and closed as the kind of what comes changes."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = head
        self._number = 0
        self._output: list[Item] = []
        self._open: str | None = None
        self._item_id = ""
        self._text = ""

    async def chunks(self, answers: Answers) -> AsyncIterator[str]:
        yield self._event("response.created", response=self._head)
        yield self._event("response.in_progress", response=self._head)
        async for event in answers.events():
            if event is None:
                yield KEEP_ALIVE
                continue
            for chunk in self._chunks(event):
                yield chunk

    def failed(self, fault: Fault) -> str:
        """The last event of a stream that went wrong."""
        error = {"code": fault.code or "server_error", "message": fault.message}
        return self._event("response.failed", response=self._head | {"status": "failed", "error": error})

    def _chunks(self, event: Event) -> Iterator[str]:
        if isinstance(event, Said):
            yield from self._said(event)
        elif isinstance(event, Called):
            yield from self._close("completed")
            yield from self._called(event.call)
        else:
            yield from self._ended(event)

    def _said(self, event: Said) -> Iterator[str]:
        if event.kind != self._open:
            yield from self._close("completed")
            yield from self._begin(event.kind)
        self._text += event.text
        kind = "output_text" if event.kind == TEXT else "reasoning_text"
        extra: Item = {"logprobs": []} if event.kind == TEXT else {}
        yield self._part_event(f"response.{kind}.delta", delta=event.text, **extra)

    def _ended(self, event: Ended) -> Iterator[str]:
        if self._open is None and not self._output:
            yield from self._begin(TEXT)
        status = _status(event.finish)
        yield from self._close(status)
        response = self._head | _ending(event.finish) | {"output": self._output}
        yield self._event(f"response.{status}", response=response)

    def _begin(self, kind: str) -> Iterator[str]:
        self._open, self._text = kind, ""
        self._item_id = _id("msg" if kind == TEXT else "rs")
        item = (_message if kind == TEXT else _reasoning)(self._item_id, None, "in_progress")
        yield self._event("response.output_item.added", output_index=len(self._output), item=item)
        part = _text("") if kind == TEXT else {"type": "reasoning_text", "text": ""}
        yield self._part_event("response.content_part.added", part=part)

    def _close(self, status: str) -> Iterator[str]:
        if self._open is None:
            return
        plain = self._open == TEXT
        extra: Item = {"logprobs": []} if plain else {}
        yield self._part_event(f"response.{'output' if plain else 'reasoning'}_text.done", text=self._text, **extra)
        item = (_message if plain else _reasoning)(self._item_id, self._text, status)
        yield self._part_event("response.content_part.done", part=item["content"][0])
        yield from self._done(item)
        self._open = None

    def _called(self, call: Call) -> Iterator[str]:
        item = _function_call(_id("fc"), call, "completed")
        place = {"output_index": len(self._output), "item_id": item["id"]}
        started = item | {"arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=len(self._output), item=started)
        yield self._event("response.function_call_arguments.delta", delta=call.arguments, **place)
        yield self._event("response.function_call_arguments.done", arguments=call.arguments, name=call.name, **place)
        yield from self._done(item)

    def _done(self, item: Item) -> Iterator[str]:
        yield self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def _part_event(self, kind: str, **fields: Any) -> str:
        place = {"output_index": len(self._output), "item_id": self._item_id, "content_index": 0}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        number, self._number = self._number, self._number + 1
        return sse({"type": kind, "sequence_number": number, **fields}, kind)
