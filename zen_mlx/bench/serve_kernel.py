"""One product of signs alone, 2560 wide: rows that take eight slots in turn against rows of one."""

from __future__ import annotations

import statistics

import mlx.core as mx
import numpy as np

from ..events import Progress
from ..fsio import Json
from ..kernels.dispatch import sign_matmul
from .clock import Contender, evaluation, race, ratio

WIDTH, SLOTS = 2560, 8
ROWS = (8, 16, 64)
_DISTINCT = 4
_ROUNDS, _QUICK_ROUNDS = 9, 3


def measure_kernel(quick: bool, report: Progress) -> list[Json]:
    """Rows of "rows", "one_s" and "eight_s", medians of seconds a product, and "over_one", of the speeds in each round."""
    report("one product", 0, None)
    packed, scales = _signs()
    found: list[Json] = []
    for rows in ROWS:
        sides = [_side("one", packed, scales, rows, 1), _side("eight", packed, scales, rows, SLOTS)]
        times = race(sides, _QUICK_ROUNDS if quick else _ROUNDS)
        found.append(
            {
                "rows": rows,
                "one_s": statistics.median(times["one"]),
                "eight_s": statistics.median(times["eight"]),
                "over_one": ratio(times["one"], times["eight"]),
            }
        )
    return found


def _signs() -> tuple[list[mx.array], mx.array]:
    """Signs of `_DISTINCT` layers, u32 [SLOTS, WIDTH, WIDTH / 32], and their scales, f32 [SLOTS, WIDTH]."""
    rng = np.random.default_rng(0)
    packed = [mx.array(rng.integers(0, 1 << 32, (SLOTS, WIDTH, WIDTH // 32), np.uint32)) for _ in range(_DISTINCT)]
    scales = mx.array(rng.random((SLOTS, WIDTH), np.float32))
    mx.eval(packed, scales)
    return packed, scales


def _side(name: str, packed: list[mx.array], scales: mx.array, rows: int, slots: int) -> Contender:
    x = mx.random.normal((rows, WIDTH), key=mx.random.key(rows))
    base = mx.zeros((rows, WIDTH))
    ids = None if slots == 1 else mx.arange(rows, dtype=mx.int32) % slots
    mx.eval(x, base, *([] if ids is None else [ids]))

    def call(index: int) -> list[mx.array]:
        scale = scales[:slots]
        return [sign_matmul(x, packed[index][:slots], row=scale, col=scale, slots=ids, y_base=base)]

    return evaluation(name, _DISTINCT, call)
