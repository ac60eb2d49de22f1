"""How long a profile that is loaded into a running batch keeps the others waiting for their next token."""

from __future__ import annotations

import contextlib
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import mlx.nn as nn

from ..adapter.resident import Resident
from ..adapter.resident_set import DEFAULT_MOST
from ..engine.request import Piece
from ..engine.scheduler import Scheduler
from ..engine.stream import Item, Stream
from ..events import Progress
from ..format.read import read
from ..format.write import write
from ..fsio import Json
from .decode import subjects
from .machine import memory_bytes
from .serve_profiles import KINDS, NoText, endless, prompts, words_of

STREAMS = 8
ALLOWED_S = 0.02
"""What loading may add to two steps."""
_LOADS, _QUICK_LOADS = 4, 2
_STEADY, _QUICK_STEADY = 24, 8


class _Timed(Stream):
    """A stream that knows when each of its tokens came."""

    def __init__(self, key: str, prompt: list[int]) -> None:
        super().__init__(endless(prompt, key), key, lambda _: None)
        self.times: list[float] = []

    def put(self, item: Item) -> None:
        if isinstance(item, Piece):
            self.times.append(time.perf_counter())


class _Server:
    """A scheduler whose profiles are files, read on a second thread as a backend reads them."""

    def __init__(self, model: nn.Module, folder: Path, kind: str, profiles: int) -> None:
        for index in range(profiles):
            write(KINDS[kind](model, index), folder / f"{index}.bitdelta")
        self._folder = folder
        self._prompts = prompts(profiles, words_of(model))
        self._reader = ThreadPoolExecutor(1)
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        most = max(DEFAULT_MOST, profiles)
        self.scheduler = Scheduler(model, cast(Any, NoText()), self._load, STREAMS + 1, most, None, 0)

    def _load(self, name: str, done: Callable[[Any], None]) -> None:
        def work() -> None:
            try:
                found: Any = Resident.from_profile(read(self._folder / f"{name}.bitdelta"))
            except BaseException as error:
                found = error
            self._tasks.put(lambda: done(found))

        self._reader.submit(work)

    def open(self, index: int) -> _Timed:
        """A stream of profile `index`."""
        stream = _Timed(str(index), self._prompts[index])
        self.scheduler.open(stream)
        return stream

    def run_until(self, done: Callable[[], bool]) -> None:
        """Step after step."""
        while not done():
            idle = self.scheduler.idle
            with contextlib.suppress(queue.Empty):
                self._tasks.get(block=idle)()
            self.scheduler.step()

    @property
    def resident(self) -> int:
        """Profiles that have their slots."""
        return int(self.scheduler.stats()["resident"])

    def close(self) -> None:
        """End what runs."""
        self.scheduler.stop(False)
        self.scheduler.close()
        self._reader.shutdown()


def measure_loading(quick: bool, report: Progress) -> list[Json]:
    """The row of `loading_row` for the first model that decode is measured with, signs and factors."""
    subject = subjects()[0]
    if subject.needed_bytes > 0.6 * memory_bytes():
        return []
    model = subject.make()
    rows = []
    for kind in ("sign", "factor"):
        report(f"loading beside streams, {kind}", 0, None)
        rows.append({"model": subject.label, **loading_row(model, kind, quick)})
    return rows


def loading_row(model: nn.Module, kind: str, quick: bool) -> Json:
    """Eight rows of as many profiles decode; then more profiles are asked for, one after the other.

    "step_s": median time between two tokens of a row while nothing is loaded, "steady_gap_s" the longest. "load_s": from a
    request to its profile's being ready. "gap_s": the longest time between two tokens of a row meanwhile; "delay_s": what
    it is over the median. "join_gap_s": the longest while the new row's prompt is read. Over all loads; the first one also
    makes the arrays of slots larger. "holds": no token was delayed by more than one step and 20 ms.
    """
    loads, steady = (_QUICK_LOADS, _QUICK_STEADY) if quick else (_LOADS, _STEADY)
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        server = _Server(model, Path(folder), kind, STREAMS + loads)
        try:
            rows = [server.open(index) for index in range(STREAMS)]
            server.run_until(lambda: all(len(row.times) > 2 for row in rows))
            start = time.perf_counter()
            goal = len(rows[0].times) + steady
            server.run_until(lambda: len(rows[0].times) >= goal)
            before = _gaps(rows, start, time.perf_counter())
            during = [_load_one(server, rows, index) for index in range(STREAMS, STREAMS + loads)]
        finally:
            server.close()
    step, gap = statistics.median(before), max(found["gap_s"] for found in during)
    return {
        "kind": kind,
        "streams": STREAMS,
        "loads": loads,
        "step_s": step,
        "steady_gap_s": max(before),
        "load_s": statistics.median(found["load_s"] for found in during),
        "gap_s": gap,
        "delay_s": gap - step,
        "join_gap_s": max(found["join_gap_s"] for found in during),
        "holds": gap - step <= step + ALLOWED_S,
    }


def _load_one(server: _Server, rows: Sequence[_Timed], index: int) -> dict[str, float]:
    start, resident = time.perf_counter(), server.resident
    new = server.open(index)
    server.run_until(lambda: server.resident > resident)
    ready = time.perf_counter()
    server.run_until(lambda: bool(new.times))
    server.scheduler.cancel(new)
    count = len(rows[0].times)
    server.run_until(lambda: len(rows[0].times) > count)
    joined = time.perf_counter()
    return {
        "load_s": ready - start,
        "gap_s": max(_gaps(rows, start, ready)),
        "join_gap_s": max(_gaps(rows, ready, joined)),
    }


def _gaps(rows: Sequence[_Timed], start: float, stop: float) -> list[float]:
    """Seconds between two tokens of each row, the second of which came after `start` and not after `stop`."""
    pairs = [pair for row in rows for pair in zip(row.times, row.times[1:], strict=False)]
    return [after - before for before, after in pairs if start < after <= stop]
