"""The operands every backend shares: what a profile holds for one layer, and the form in which a kernel is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx


class Sign(NamedTuple):
    """One sign plane: packed u32 [S, N, ceil(K/32)], row f32 [S, N], col f32 [S, K], block f32 [S, N, ceil(K/B)]."""

    packed: mx.array
    row: mx.array | None = None
    col: mx.array | None = None
    block: mx.array | None = None


class Dense(NamedTuple):
    """A stored delta: values [S, N, K], f16 or f32."""

    values: mx.array


Part = Sign | Dense


class NotEvaluable(Exception):
    """A launch that reads host memory was given an array that MLX is tracing, which has no values yet."""


Launch = Callable[
    [mx.array, Sequence[Sign], Sequence[mx.array | None], mx.array | None],
    Sequence[mx.array],
]
"""launch(x, signs, y_bases, slots) -> one y a projection: the equation of `reference`, for 1 to 3 projections of one x.

    x        [M, K]      f32, f16 or bf16, M >= 1, any strides
    signs    1 to 3 planes of one K and one S, with the same scales present and the same block size; each has its own N
    y_bases  one a plane: [M, N] f32, f16 or bf16, or None (0) for all of them
    slots    [M] i32, or None: every row uses slot 0
    y        [M, N] in y_base's dtype, x's without one
"""
