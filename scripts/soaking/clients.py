"""What clients do: take an answer to its end, leave in the middle, send nonsense, send half of a request."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Iterable
from typing import Any

from .counts import Counts
from .home import TOKENS, Case
from .wire import PATIENCE_S, connected, events_in, leave_after, post

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HALVES = {
    "nothing": b"",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Ty",
    "half a body": post(CHAT, {"model": "soak", "messages": []})[:-10],
}
NONSENSE: list[bytes] = [
    post(CHAT, b"{"),
    post(CHAT, b"[" * 5000),
    post(CHAT, {"model": "soak"}),
    post(CHAT, {"model": "soak@nobody", "messages": [{"role": "user", "content": "x"}]}),
    post(CHAT, {"model": "../../p0", "messages": [{"role": "user", "content": "x"}]}),
    post(CHAT, {"model": "soak", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"}),
    post(CHAT, {"model": "soak", "messages": [{"role": "user", "content": "x"}], "unknown": 1}),
    post(CHAT, {"model": "soak", "messages": [{"role": "user", "content": "x" * 100_000}]}),
    post(MESSAGES, {"model": "soak", "messages": [], "max_tokens": -1}),
    post("/v1/responses", {"model": "soak", "input": [{"type": "hologram"}]}),
    post("/v1/nowhere", {}),
    b"BREW /pot HTCPCP/1.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
]


def asked(case: Case, stream: bool, **more: Any) -> dict[str, Any]:
    """The body that asks for a case."""
    messages = [{"role": "user", "content": case.prompt}]
    return {"model": case.model, "messages": messages, "max_tokens": TOKENS, "stream": stream, **case.sampling, **more}


async def take_answer(port: int, case: Case, how: random.Random, counts: Counts) -> None:
    """A whole answer in one of two dialects, streamed or not."""
    stream = how.random() < 0.5
    path = MESSAGES if "seed" not in case.sampling and how.random() < 0.5 else CHAT
    async with connected(port, post(path, asked(case, stream))) as answer:
        await answer.begin()
        if answer.status == 429:
            counts.add("429")
        elif answer.status != 200:
            counts.fail("answers", f"status {answer.status}")
        elif stream:
            counts.check_answer(case, *ended([event async for event in answer.events()]))
        else:
            counts.check_answer(case, *_document(await answer.whole()))


def _document(document: dict[str, Any]) -> tuple[str, str]:
    if "choices" in document:
        choice = document["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    return "".join(block["text"] for block in document["content"]), _REASONS[document["stop_reason"]]


_REASONS = {"end_turn": "stop", "max_tokens": "length"}


def ended(events: list[dict[str, Any]]) -> tuple[str, str]:
    """(text, finish reason) of a stream in either dialect."""
    reason = ""
    for event in events:
        for choice in event.get("choices", []):
            reason = choice["finish_reason"] or reason
        reason = _REASONS.get(event.get("delta", {}).get("stop_reason") or "", reason)
    return _text(events), reason


def _text(events: Iterable[dict[str, Any]]) -> str:
    chat = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", [])]
    return "".join(chat) or "".join(event["delta"].get("text", "") for event in events if "delta" in event)


def _tokens(events: Iterable[dict[str, Any]]) -> int:
    """Tokens in the chunks of a stream with log-probabilities."""
    choices = [choice for event in events for choice in event.get("choices", [])]
    return sum(len(choice["logprobs"]["content"]) for choice in choices if choice.get("logprobs"))


async def leave_stream(port: int, case: Case, how: random.Random, counts: Counts) -> None:
    """Leave a stream after some tokens; what had arrived by then is counted."""
    after = how.randrange(1, TOKENS)
    request = post(CHAT, asked(case, True, logprobs=True))
    text = await leave_after(port, request, lambda events: _tokens(events) >= after)
    head, _, body = text.partition(b"\r\n\r\n")
    status, request_id = int(head.split()[1]), re.search(rb"\r\nx-request-id: (\S+)", head)
    if status == 200 and request_id is not None:
        events = events_in(body)
        counts.left(case, request_id[1].decode(), _tokens(events), _text(events))
    elif status == 429:
        counts.add("429")
    else:
        counts.fail("left", f"status {status}")


async def leave_whole(port: int, case: Case, how: random.Random, counts: Counts) -> None:
    """Leave before an answer that is not streamed."""
    async with connected(port, post(CHAT, asked(case, False))) as answer:
        await asyncio.sleep(how.random())
        answer.leave()
    counts.add("left without a stream")


async def send_nonsense(port: int, how: random.Random, counts: Counts) -> None:
    """A request that cannot be honoured gets a 4xx, or a closed connection where it is no HTTP."""
    data = how.choice(NONSENSE)
    async with connected(port, data) as answer:
        try:
            await answer.begin()
        except (asyncio.IncompleteReadError, ConnectionError):
            answer.status = 400 if data[:4] != b"POST" else 0
    counts.add("malformed")
    if not 400 <= answer.status < 500:
        counts.fail("malformed", f"status {answer.status} for {data[:60]!r}")


async def send_half(port: int, way: str, counts: Counts) -> None:
    """Half of a request, and then nothing: the server closes the connection."""
    began = time.monotonic()
    async with connected(port, HALVES[way]) as answer:
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(answer.reader.read(1 << 12), PATIENCE_S):
                pass
    counts.closed_half(way, time.monotonic() - began)
