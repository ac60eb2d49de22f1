"""The parts of a soak: rough clients, answers after schemas, stops, programs that end."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import clients
from .counts import Counts
from .home import MODEL, Case
from .server import Server, serving
from .wire import PATIENCE_S, connected, get, post

CACHE_BYTES = 32 << 20
MOST_GROWTH = 1.05
SHORT_S = 60.0  # below it the server's time limits are shorter, and its memory has not settled
LEAVE, NONSENSE, HALF = 0.30, 0.05, 0.05  # of all that clients do; HALF for each way
PROGRAM = """
from zen_mlx import ZenPersonalizationManager
manager = ZenPersonalizationManager({model!r}, home={home!r})
stream = iter(manager.stream("hello", profile="p0", max_tokens=3000, temperature=1.0, seed=2))
next(stream)
"""
Report = Callable[[str], None]


async def rough_clients(
    server: Server, cases: list[Case], streams: int, seconds: float, seed: int, counts: Counts
) -> None:
    """`streams` clients at once, for so long; then until the last connection is closed."""
    until, halves = time.monotonic() + seconds, set[asyncio.Task[None]]()
    counts.last_s = time.monotonic()

    async def client(number: int) -> None:
        how = random.Random(f"{seed} {number}")
        while time.monotonic() < until:
            await _attempt(_one(server.port, cases, how, counts, halves), counts)

    await asyncio.gather(*(client(number) for number in range(streams)))
    counts.note_time()
    counts.last_s = None
    await asyncio.gather(*halves)
    await quiet(server)


async def _one(
    port: int, cases: list[Case], how: random.Random, counts: Counts, halves: set[asyncio.Task[None]]
) -> None:
    draw, case = how.random(), how.choice(cases)
    if draw < LEAVE:
        await (clients.leave_stream if how.random() < 0.6 else clients.leave_whole)(port, case, how, counts)
    elif draw < LEAVE + NONSENSE:
        await clients.send_nonsense(port, how, counts)
    elif draw < LEAVE + NONSENSE + HALF * len(clients.HALVES):
        way = how.choice(list(clients.HALVES))
        halves.add(asyncio.create_task(_attempt(clients.send_half(port, way, counts), counts)))
    else:
        await clients.take_answer(port, case, how, counts)


async def _attempt(work: Any, counts: Counts) -> None:
    try:
        await asyncio.wait_for(work, PATIENCE_S)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
        counts.fail("connections", f"{type(error).__name__}: {error}")


async def quiet(server: Server) -> None:
    """Wait until nothing runs."""
    while (health := json.loads(await get(server.port, "/health")))["running"] or health["queued"]:
        await asyncio.sleep(0.2)


async def number(server: Server, name: str) -> float:
    """One of the server's metrics."""
    found = re.search(rf"^{name} (\S+)$", await get(server.port, "/metrics"), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def load(home: Path, cases: list[Case], streams: int, seconds: float, counts: Counts, report: Report) -> None:
    """The rough clients on a server that has warmed up."""
    short = seconds < SHORT_S
    options = ["--max-streams", str(streams), "--cache-bytes", str(CACHE_BYTES)]
    options += ["--header-timeout", "2", "--body-timeout", "3"] if short else []
    with serving(home, *options) as server:
        report("warming up")
        warm = Counts().knows(cases)
        await rough_clients(server, cases, streams, seconds / 4, 0, warm)
        before = server.resident_bytes
        report(f"{streams} streams for {seconds:.0f} s")
        await rough_clients(server, cases, streams, seconds, 1, counts)
        counts.check_memory(before, server.resident_bytes, MOST_GROWTH if not short else math.inf)
        counts.tokens_seen |= warm.tokens_seen
        counts.counted += warm.counted
        for what, how in warm.wrong.items():
            counts.wrong[what] += how
        token_s = await number(server, "zen_token_seconds_sum") / await number(server, "zen_token_seconds_count")
        counts.check_left(server.tokens, int(await number(server, "zen_completion_tokens_total")), token_s)
        for line in server.complaints:
            counts.fail("complaints in the log", line)
        _stop(server, counts, "the server of the rough clients")


def _stop(server: Server, counts: Counts, which: str) -> None:
    server.process.send_signal(signal.SIGTERM)
    if (code := server.process.wait(60)) != 0:
        counts.fail("exit codes", f"{which}: {code}")


async def shaped(home: Path, answers: int, counts: Counts, report: Report) -> None:
    """So many answers under ten schemas, of the base and of profiles, eight at a time."""
    schemas = list(importlib.import_module("tests.unit.engine.test_constraints").SCHEMAS.values())[:10]
    validator = importlib.import_module("jsonschema").Draft202012Validator
    gate = asyncio.Semaphore(8)

    async def ask(port: int, number: int) -> None:
        schema = schemas[number % len(schemas)]
        body = {
            "model": (MODEL, f"{MODEL}@p0", "p2", "p3", "p4")[number // len(schemas) % 5],
            "messages": [{"role": "user", "content": "Answer in JSON."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            "max_tokens": 160,
            "temperature": 1,
            "seed": number,
        }
        async with connected(port, post(clients.CHAT, body)) as answer:
            await answer.begin()
            choice = (await answer.whole())["choices"][0]
        counts.add(f"answers under a schema, {choice['finish_reason']}")
        if choice["finish_reason"] == "stop" and not _fits(validator(schema), choice["message"]["content"]):
            counts.fail("schemas", f"{schema}: {choice['message']['content']!r}")

    async def in_turn(port: int, number: int) -> None:
        async with gate:
            await _attempt(ask(port, number), counts)

    report(f"{answers} answers under schemas")
    with serving(home) as server:
        await asyncio.gather(*(in_turn(server.port, number) for number in range(answers)))


def _fits(validator: Any, text: str) -> bool:
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def stops(home: Path, times: int, case: Case, counts: Counts, report: Report) -> None:
    """So many servers, each told to stop in the middle of an answer, which comes to its end."""

    def once(number: int) -> None:
        with serving(home) as server:
            asyncio.run(_stopped(server, case, counts))
            counts.add("stops")
            if (code := server.process.wait(60)) != 0:
                counts.fail("exit codes", f"stop {number}: {code}")

    report(f"{times} stops in the middle of an answer")
    _several(once, times)


async def _stopped(server: Server, case: Case, counts: Counts) -> None:
    async with connected(server.port, post(clients.CHAT, clients.asked(case, True))) as answer:
        await answer.begin()
        events: list[dict[str, Any]] = []
        async for event in answer.events():
            events.append(event)
            if len(events) == 3:
                server.process.send_signal(signal.SIGTERM)
    counts.check_answer(case, *clients.ended(events))


def programs(home: Path, model: str, times: int, counts: Counts, report: Report) -> None:
    """So many processes that end in the middle of an answer from `manager.stream`."""

    def once(number: int) -> None:
        command = [sys.executable, "-c", PROGRAM.format(model=model, home=str(home))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        counts.add("programs that just end")
        if done.returncode or done.stderr:
            counts.fail("exit codes", f"program {number}: {done.returncode} {done.stderr[-200:]}")

    report(f"{times} programs that end in the middle of an answer")
    _several(once, times)


def _several(once: Callable[[int], None], times: int) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(once, range(times)))
