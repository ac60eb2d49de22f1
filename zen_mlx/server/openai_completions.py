"""OpenAI's completions, `POST /v1/completions`: prompts as plain text or tokens, continued without a template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..engine import request as engine
from .documents import answers_of
from .faults import OPENAI
from .openai_chat import failed, finite, header, usage_of
from .openai_wire import CompletionBody, stops_of
from .prompts import Prompt, plain
from .running import Answer, Answers, Ended, Said, copies, sampling_of
from .shared import Serving
from .sse import DONE, KEEP_ALIVE, EventStream, sse, whole

DEFAULT_TOKENS = 16


def router(serving: Serving) -> APIRouter:
    """The route of completions."""
    routes = APIRouter()

    @routes.post(
        "/v1/completions",
        summary="Continue text",
        responses=answers_of(OPENAI, ["id", "object", "choices"], "text/event-stream"),
    )
    async def complete(body: CompletionBody, request: Request) -> Response:
        profile = serving.profile_of(body.model, request)
        texts = body.prompts()
        prompts = await asyncio.to_thread(plain, serving.backend, texts)
        n = body.n or 1
        echoes = await asyncio.to_thread(_echoes, serving, texts) if body.echo else [None] * len(texts)
        wanted = [
            each
            for ids, echo in zip(prompts, echoes, strict=True)
            for each in copies(_wanted(serving, profile, body, ids, echo), n)
        ]
        answers = Answers(serving, Prompt([]), wanted)
        head = header("cmpl", "text_completion", serving.model_of(profile))
        if not body.stream:
            return await whole(request, answers, lambda collected: _document(head, collected, n))
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(request, answers, _chunks(head, answers, n, usage), failed)

    return routes


def _echoes(serving: Serving, prompts: Sequence[str | list[int]]) -> list[str]:
    """Each prompt as text."""
    with serving.backend.tokenizing:
        return [each if isinstance(each, str) else serving.backend.tokenizer.decode(each) for each in prompts]


def _wanted(
    serving: Serving, profile: str | None, body: CompletionBody, ids: list[int], echo: str | None
) -> engine.Request:
    limit = body.max_tokens or DEFAULT_TOKENS
    return engine.Request(
        ids=ids,
        profile=profile,
        sampling=sampling_of(serving, len(ids), limit, body.temperature, body.top_p, body.seed),
        stop=stops_of(body.stop),
        top_logprobs=body.logprobs,
        continues=True,
        echo=echo,
    )


def _document(head: dict[str, Any], answers: list[Answer], n: int) -> dict[str, Any]:
    ends = [answer.finish for answer in answers if answer.finish is not None]
    choices = [
        _choice(index, answer.text, list(answer.logprobs), answer.finish) for index, answer in enumerate(answers)
    ]
    return head | {"choices": choices, "usage": usage_of(ends[::n], ends)}


def _choice(
    index: int, text: str, tokens: list[engine.TokenLogprob], finish: engine.Finish | None = None, offset: int = 0
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": _logprobs(tokens, offset) if tokens else None,
        "finish_reason": None if finish is None else finish.finish_reason,
    }


def _logprobs(tokens: list[engine.TokenLogprob], offset: int) -> dict[str, Any]:
    """OpenAI's older form: lists side by side. offset: characters of the answer before these tokens.

    A prompt's first token has no log-probability.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: engine.TokenLogprob) -> dict[str, float | None] | None:
    """Of two tokens with the same text, such as parts of a character, the likelier one."""
    if token.logprob is None:
        return None
    return {each.text: finite(each.logprob) for each in reversed(token.top)}


async def _chunks(head: dict[str, Any], answers: Answers, n: int, usage: bool) -> AsyncIterator[str]:
    tail: dict[str, Any] = {"usage": None} if usage else {}
    offsets = [0] * len(answers)
    ends: dict[int, engine.Finish] = {}
    async for event in answers.events():
        if event is None:
            yield KEEP_ALIVE
        elif isinstance(event, Said):
            choice = _choice(event.index, event.text, list(event.logprobs), offset=offsets[event.index])
            offsets[event.index] += sum(len(token.text) for token in event.logprobs)
            yield sse(head | {"choices": [choice]} | tail)
        elif isinstance(event, Ended):
            ends[event.index] = event.finish
            yield sse(head | {"choices": [_choice(event.index, "", [], event.finish)]} | tail)
    if usage:
        in_order = [ends[index] for index in sorted(ends)]
        yield sse(head | {"choices": [], "usage": usage_of(in_order[::n], in_order)})
    yield DONE
