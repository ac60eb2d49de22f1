"""Seconds per call: many calls on distinct operands in one evaluation, contenders in turn, one value per round.

A GPU is timed from built graphs to results, so Python's share is left out. On the CPU a kernel may evaluate while it
is called, so building counts there, for every contender.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..kernels.dispatch import backend
from .machine import working_set_bytes

_TURN_S = 0.1  # of one contender in one round: long against the clock and the launch of an evaluation
_ENOUGH_S = 1.0  # of one contender: after that it sits out the remaining rounds


class Contender(NamedTuple):
    """`seconds(count)` makes `count` calls, at most `distinct` (more would meet their operands in a cache)."""

    name: str
    distinct: int
    seconds: Callable[[int], float]


def evaluation(name: str, distinct: int, call: Callable[[int], Sequence[mx.array]]) -> Contender:
    """The contender whose call i, i < distinct, is `call(i)`, all of them evaluated at once."""
    on_gpu = backend() != "cpu"

    def seconds(count: int) -> float:
        start = time.perf_counter()
        results = [call(i) for i in range(count)]
        if on_gpu:
            mx.synchronize()
            start = time.perf_counter()
        mx.eval(results)
        return time.perf_counter() - start

    return Contender(name, distinct, seconds)


def race(contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each contender in each round, warmed up; a slow one may miss the last rounds, never the first."""
    counts = {}
    for contender in contenders:
        contender.seconds(1)  # compiles
        once = contender.seconds(1)
        counts[contender.name] = max(1, min(contender.distinct, int(_TURN_S / once)))
        if counts[contender.name] > 1:
            contender.seconds(counts[contender.name])
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for name, _, seconds in contenders:
            if sum(found[name]) * counts[name] < _ENOUGH_S:
                found[name].append(seconds(counts[name]) / counts[name])
    return found


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds that both were in of time / other's time."""
    return statistics.median(time / other for time, other in zip(times, others, strict=False))


def copy_bytes_per_s(rounds: int) -> float:
    """Bytes read plus bytes written a second by a copy far beyond the caches; the best round."""
    return max((_copy_on_cpu if backend() == "cpu" else _copy_on_gpu)() for _ in range(rounds + 1))


def launch_s(rounds: int) -> float:
    """Seconds an operation on a few numbers adds to an evaluation of many that wait for one another: no time can be lower
    in a model, whatever a kernel does."""
    count = 500
    x = mx.zeros((32,))

    def chain(_: int) -> list[mx.array]:
        y = x
        for _ in range(count):
            y = mx.abs(y)
        return [y]

    times = race([evaluation("chain", 1, chain)], rounds)["chain"]
    return statistics.median(times) / count


def _copy_on_gpu() -> float:
    arrays = [mx.ones((working_set_bytes() // 4,)) for _ in range(4)]
    mx.eval(arrays)
    copies = [mx.negative(array) for array in arrays]
    mx.synchronize()
    start = time.perf_counter()
    mx.eval(copies)
    return sum(2 * array.nbytes for array in arrays) / (time.perf_counter() - start)


def _copy_on_cpu() -> float:
    """With a thread a core, as the kernels and the BLAS have; MLX's own copy has one."""
    threads = cpu_count() or 1
    size = 2 * working_set_bytes() // threads
    pairs = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
        start = time.perf_counter()
        list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
        return 2 * size * threads / (time.perf_counter() - start)
