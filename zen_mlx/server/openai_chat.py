"""OpenAI's chat completions: `POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..engine import request as engine
from .documents import answers_of
from .faults import OPENAI, Fault, body_of
from .openai_wire import ChatBody, stops_of, templated
from .prompts import Talk, prepare
from .reading import TEXT
from .running import Answer, Answers, Called, Ended, Event, Said, copies, sampling_of
from .shared import Serving
from .sse import DONE, KEEP_ALIVE, EventStream, sse, whole
from .tools import Call

LEAST_LOGPROB = -9999.0  # JSON has no infinity


def router(serving: Serving) -> APIRouter:
    """The route of chat completions."""
    routes = APIRouter()

    @routes.post(
        "/v1/chat/completions",
        summary="Continue a conversation",
        responses=answers_of(OPENAI, ["id", "object", "choices"], "text/event-stream"),
    )
    async def chat(body: ChatBody, request: Request) -> Response:
        profile = serving.profile_of(body.model, request)
        talk = Talk([templated(each) for each in body.messages], body.chosen_tools(), body.format(), _thinks(body))
        prompt = await asyncio.to_thread(prepare, serving, talk)
        wanted = engine.Request(
            ids=prompt.ids,
            profile=profile,
            sampling=sampling_of(
                serving,
                len(prompt.ids),
                body.max_completion_tokens or body.max_tokens,
                body.temperature,
                body.top_p,
                body.seed,
            ),
            stop=stops_of(body.stop),
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            grammar=prompt.grammar,
        )
        answers = Answers(serving, prompt, copies(wanted, body.n or 1))
        head = header("chatcmpl", "chat.completion", serving.model_of(profile))
        if not body.stream:
            return await whole(request, answers, lambda collected: _document(head, collected, bool(body.logprobs)))
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(request, answers, _chunks(head, answers, usage), failed)

    return routes


def header(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What every document and chunk of one answer begins with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def failed(fault: Fault) -> str:
    """The last event of a stream that went wrong."""
    return sse(body_of(OPENAI, fault)) + DONE


def usage_of(prompts: list[engine.Finish], answers: list[engine.Finish]) -> dict[str, Any]:
    """Counts of tokens. prompts: the ends of one answer of each prompt, which is counted once."""
    prompt_tokens = sum(each.prompt_tokens for each in prompts)
    completion_tokens = sum(each.completion_tokens for each in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in prompts)},
    }


def finite(logprob: float | None) -> float | None:
    """`logprob` as a number that JSON has; None stays None."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


def logprobs_of(tokens: list[engine.TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a choice."""
    content = [_logprob(token) | {"top_logprobs": [_logprob(each) for each in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _thinks(body: ChatBody) -> bool | None:
    return None if body.reasoning_effort is None else body.reasoning_effort not in ("none", "minimal")


def _logprob(token: engine.TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.text.encode())}


def _reason(finish: engine.Finish, called: bool) -> str:
    return "tool_calls" if called and finish.finish_reason == "stop" else finish.finish_reason


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _document(head: dict[str, Any], answers: list[Answer], logprobs: bool) -> dict[str, Any]:
    ends = [answer.finish for answer in answers if answer.finish is not None]
    choices = [_choice(index, answer, logprobs) for index, answer in enumerate(answers)]
    return head | {"choices": choices, "usage": usage_of(ends[:1], ends), "system_fingerprint": None}


def _choice(index: int, answer: Answer, logprobs: bool) -> dict[str, Any]:
    assert answer.finish is not None
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or (None if answer.calls else "")}
    message["refusal"] = None
    if answer.thought:
        message["reasoning_content"] = answer.thought
    if answer.calls:
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs_of(answer.logprobs) if logprobs else None,
        "finish_reason": _reason(answer.finish, bool(answer.calls)),
    }


async def _chunks(head: dict[str, Any], answers: Answers, usage: bool) -> AsyncIterator[str]:
    head = head | {"object": "chat.completion.chunk"}
    tail: dict[str, Any] = {"usage": None} if usage else {}
    calls = [0] * len(answers)
    ends: list[engine.Finish] = []
    for index in range(len(answers)):
        yield sse(head | {"choices": [_delta(index, {"role": "assistant", "content": ""})]} | tail)
    async for event in answers.events():
        if event is None:
            yield KEEP_ALIVE
            continue
        yield sse(head | {"choices": [_chunk(event, calls)]} | tail)
        if isinstance(event, Ended):
            ends.append(event.finish)
    if usage:
        yield sse(head | {"choices": [], "usage": usage_of(ends[:1], ends)})
    yield DONE


def _chunk(event: Event, calls: list[int]) -> dict[str, Any]:
    """The choice of one chunk; `calls` counts those of each answer."""
    if isinstance(event, Said):
        key = "content" if event.kind == TEXT else "reasoning_content"
        choice = _delta(event.index, {key: event.text})
        return choice | {"logprobs": logprobs_of(list(event.logprobs))} if event.logprobs else choice
    if isinstance(event, Called):
        number, calls[event.index] = calls[event.index], calls[event.index] + 1
        return _delta(event.index, {"tool_calls": [{"index": number} | _call(event.call)]})
    return _delta(event.index, {}, _reason(event.finish, event.called))


def _delta(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
