"""Tokens per second of a batch: the bare base, and a model that holds profiles with rows of the base, of one, of eight."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn

from ..adapter.resident_set import ResidentSet
from ..engine.batch import BASE_KEY, Batch
from ..engine.prompt_cache import PromptCaches
from ..engine.row import Row
from ..events import Progress
from ..fsio import Json
from .clock import ratio
from .decode import Subject, subjects
from .machine import memory_bytes
from .serve_profiles import KINDS, NoText, endless, prompts, resident, words_of
from .synthetic import twin

PROFILES = 8
STREAMS, _QUICK_STREAMS = (1, 4, 8, 16, 64), (1, 8)
_FACTOR_STREAMS, _QUICK_FACTOR_STREAMS = (16,), (8,)
_STEPS, _QUICK_STEPS = 16, 4
_ROUNDS, _QUICK_ROUNDS = 5, 3


class Side(NamedTuple):
    """One way to serve: the rows of a batch take `keys` in turn."""

    name: str
    model: nn.Module
    residents: ResidentSet | None
    keys: Sequence[str]


class Turn(NamedTuple):
    """Of one batch: tokens per second, and per second of this process's CPU time; medians of seconds to a row's first
    token and from one to the next."""

    tokens_per_s: float
    tokens_per_cpu_s: float
    first_token_s: float
    token_s: float


def measure_rate(quick: bool, report: Progress) -> list[Json]:
    """The rows of `rate_rows` for the models that decode is measured with; "skipped": why one was not.

    Signs at every number of streams, factors at some.
    """
    rows: list[Json] = []
    for subject in subjects():
        if subject.needed_bytes > 0.6 * memory_bytes():
            rows.append({**_blank(subject), "skipped": f"needs {subject.needed_bytes / 0.6e9:.1f} GB"})
            continue
        model = subject.make()
        mx.eval(model.parameters())
        for kind in KINDS:
            report(f"streams, {kind}", 0, None)
            rows += [{"model": subject.label, **row} for row in rate_rows(model, kind, _streams(kind, quick), quick)]
        mx.clear_cache()
    return rows


def _blank(subject: Subject) -> Json:
    empty = dict.fromkeys(("kind", "streams", "side", "over_bare", "over_one", *Turn._fields))
    return {"model": subject.label, **empty}


def _streams(kind: str, quick: bool) -> Sequence[int]:
    if kind == "sign":
        return _QUICK_STREAMS if quick else STREAMS
    return _QUICK_FACTOR_STREAMS if quick else _FACTOR_STREAMS


def rate_rows(model: nn.Module, kind: str, streams: Sequence[int], quick: bool) -> list[Json]:
    """Rows of "kind", "streams", "side" and the medians over the rounds of what `Turn` has. "over_bare", "over_one": tokens
    per second over those of the bare base and of one profile in the same round; None where that says nothing.

    bare: mlx-lm's own layers over the same arrays. base, one, eight: a model that holds eight profiles of `kind`.
    """
    bare = twin(model)
    with resident(model, kind, PROFILES) as residents:
        keys = [str(index) for index in range(PROFILES)]
        sides = [
            Side("bare", bare, None, [BASE_KEY]),
            Side("base", model, residents, [BASE_KEY]),
            Side("one", model, residents, keys[:1]),
            Side("eight", model, residents, keys),
        ]
        return [row for count in streams for row in _race(sides, kind, count, quick)]


def _race(sides: Sequence[Side], kind: str, streams: int, quick: bool) -> list[Json]:
    """The sides in turn, after a warm-up round; no side has the same one before it every time."""
    steps, rounds = (_QUICK_STEPS, _QUICK_ROUNDS) if quick else (_STEPS, _ROUNDS)
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for round_ in range(rounds + 1):
        for side in sides if round_ % 2 else reversed(sides):
            found = take_turn(side, streams, steps if round_ else 2)
            if round_:
                turns[side.name].append(found)
    speeds = {name: [turn.tokens_per_s for turn in found] for name, found in turns.items()}
    return [
        {
            "kind": kind,
            "streams": streams,
            "side": name,
            **{field: statistics.median(getattr(turn, field) for turn in found) for field in Turn._fields},
            "over_bare": ratio(speeds[name], speeds["bare"]),
            "over_one": ratio(speeds[name], speeds["one"]) if name == "eight" else None,
            "skipped": None,
        }
        for name, found in turns.items()
    ]


def take_turn(side: Side, streams: int, steps: int) -> Turn:
    """One batch of `streams` rows, from their prompts to `steps` tokens after all have begun."""
    tokenizer = cast(Any, NoText())
    batch = Batch(side.model, tokenizer, side.residents, streams=streams, caches=PromptCaches(0))
    start = time.perf_counter()
    asked = prompts(streams, words_of(side.model))
    rows = [batch.add(endless(ids), side.keys[i % len(side.keys)]) for i, ids in enumerate(asked)]
    firsts = _first_tokens(batch, rows)
    batch.step()
    batch.settle()
    cpu, times = time.process_time(), [time.perf_counter()]
    for _ in range(steps):
        batch.step()
        times.append(time.perf_counter())
    batch.settle()  # the token that is computed ahead belongs to the steps, as the first one came for nothing
    seconds, cpu_s = time.perf_counter() - times[0], time.process_time() - cpu
    for row in rows:
        batch.cancel(row)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    tokens = streams * steps
    return Turn(
        tokens / seconds, tokens / cpu_s, statistics.median(each - start for each in firsts), statistics.median(gaps)
    )


def _first_tokens(batch: Batch, rows: Sequence[Row]) -> list[float]:
    """When each row's first token came."""
    firsts: dict[int, float] = {}
    while len(firsts) < len(rows):
        for row, _ in batch.step():
            firsts.setdefault(id(row), time.perf_counter())
    return list(firsts.values())
