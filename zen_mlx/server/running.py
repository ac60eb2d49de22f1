"""The answers to one request: opened together, read as they come or collected whole, and cancelled when the caller leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from starlette.types import Receive

from ..config import SEEDS, Sampling
from ..engine.request import Finish, Piece, Request, TokenLogprob
from ..errors import InputError
from .faults import Interrupted
from .prompts import Prompt
from .reading import CALL, TEXT, Found, Reader
from .shared import Serving, Stream
from .tools import Call, call_span, parse

T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """Answer `index` goes on. kind: TEXT or THOUGHT. text may be empty where only log-probabilities came."""

    index: int
    kind: str
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Called:
    """Answer `index` has a whole call."""

    index: int
    call: Call


@dataclass(frozen=True)
class Ended:
    """Answer `index` is complete. called: it has calls."""

    index: int
    finish: Finish
    called: bool


Event = Said | Called | Ended


@dataclass
class Answer:
    """One whole answer."""

    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None


class Answers:
    """`requests` as running streams; all of them, or what refused one of them is raised. tokens: made so far."""

    def __init__(self, serving: Serving, prompt: Prompt, requests: list[Request]) -> None:
        self.prompt = prompt
        self.tokens = 0
        self._serving = serving
        self._began = time.perf_counter()
        self._tasks: list[asyncio.Task[None]] = []
        self._streams: list[Stream] = []
        most = serving.options.max_queue
        if len(requests) > most:
            raise InputError(
                "more answers than may wait at once", field="n", expected=f"at most {most}", found=len(requests)
            )
        try:
            for request in requests:
                self._streams.append(serving.backend.open(request))
        except BaseException:
            self.cancel()
            raise

    def __len__(self) -> int:
        return len(self._streams)

    def cancel(self) -> None:
        """End what still runs; idempotent."""
        for stream in self._streams:
            stream.cancel()
        for task in self._tasks:
            task.cancel()

    async def events(self) -> AsyncIterator[Event | None]:
        """What comes, in the order in which it comes; None where nothing came for the keep-alive's time."""
        queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(self._pump(index, stream, queue)) for index, stream in enumerate(self._streams)
        ]
        left = len(self._streams)
        try:
            while left:
                try:
                    event = await asyncio.wait_for(queue.get(), self._serving.options.keep_alive_s)
                except TimeoutError:
                    yield None
                    continue
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Ended):
                    left -= 1
                yield event
        finally:
            self.cancel()

    async def collect(self) -> list[Answer]:
        """All answers, whole."""
        answers = [Answer() for _ in self._streams]
        async for event in self.events():
            if event is not None:
                _add(answers[event.index], event)
        return answers

    async def _pump(self, index: int, stream: Stream, queue: asyncio.Queue[Event | Exception]) -> None:
        reading = _Reading(index, self._serving.backend.tokenizer, self.prompt)
        before: float | None = None
        try:
            async for piece in stream:
                before = self._measure(before, piece)
                for event in reading.feed(piece):
                    queue.put_nowait(event)
            if stream.finish is None or stream.finish.finish_reason == "interrupted":
                raise Interrupted
            for event in reading.end(stream.finish):
                queue.put_nowait(event)
        except Exception as error:
            queue.put_nowait(error)

    def _measure(self, before: float | None, piece: Piece) -> float:
        now = time.perf_counter()
        self.tokens += piece.tokens
        if before is None:
            self._serving.metrics.first_token(now - self._began)
        elif piece.tokens:
            self._serving.metrics.tokens(piece.tokens, now - before)
        return now


class _Reading:
    """The events in the pieces of one answer."""

    def __init__(self, index: int, tokenizer: Any, prompt: Prompt) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._tools = prompt.tools
        self._reader = Reader(prompt.spans, prompt.inside)
        self._called = False

    def feed(self, piece: Piece) -> Iterator[Event]:
        logprobs = piece.logprobs
        for found in self._reader.feed(piece.text):
            for event in self._events(found):
                if logprobs and isinstance(event, Said):
                    event, logprobs = replace(event, logprobs=logprobs), ()
                yield event
        if logprobs:
            yield Said(self._index, TEXT, "", logprobs)

    def end(self, finish: Finish) -> Iterator[Event]:
        cut = finish.finish_reason != "stop"
        for found in self._reader.end(cut):
            yield from self._events(found)
        yield Ended(self._index, finish, self._called)

    def _events(self, found: Found) -> Iterator[Event]:
        if found.kind != CALL or self._tools is None:
            yield Said(self._index, found.kind, found.text)
            return
        calls = parse(self._tokenizer, self._tools, found.text)
        yield from self._calls(calls)
        if not calls:
            span = call_span(self._tokenizer)
            yield Said(self._index, TEXT, f"{span.start}{found.text}{span.end}")

    def _calls(self, calls: list[Call]) -> Iterator[Event]:
        for call in calls:
            self._called = True
            yield Called(self._index, call)


def sampling_of(
    serving: Serving,
    prompt_tokens: int,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None = None,
) -> Sampling:
    """The sampling of one answer: what is not given is the project's default, and the answer ends where the context does."""
    default = Sampling()
    room = max(1, serving.backend.context - prompt_tokens)
    limits = [limit for limit in (max_tokens, serving.options.max_tokens) if limit is not None]
    return Sampling(
        max_tokens=min(room, *limits) if limits else room,
        temperature=default.temperature if temperature is None else float(temperature),
        top_p=default.top_p if top_p is None else float(top_p),
        seed=None if seed is None else seed % SEEDS,
    )


def copies(request: Request, n: int) -> list[Request]:
    """`n` requests for one prompt; a seed counts up, so that the first answer is the one of n = 1."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * n
    return [replace(request, sampling=replace(request.sampling, seed=(seed + number) % SEEDS)) for number in range(n)]


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None, and `work` cancelled, when the client leaves before. The body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _add(answer: Answer, event: Event) -> None:
    if isinstance(event, Called):
        answer.calls.append(event.call)
    elif isinstance(event, Ended):
        answer.finish = event.finish
    elif event.kind == TEXT:
        answer.text += event.text
        answer.logprobs.extend(event.logprobs)
    else:
        answer.thought += event.text
        answer.logprobs.extend(event.logprobs)
