"""The operands that all backends share: the arrays of one layer's profile, and the signature of a kernel launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx


class SignOperand(NamedTuple):
    """One sign plane: packed u32 [S, N, ceil(K/32)], row f32 [S, N], col f32 [S, K], block f32 [S, N, ceil(K/B)]."""

    packed: mx.array
    row: mx.array | None = None
    col: mx.array | None = None
    block: mx.array | None = None


class DenseOperand(NamedTuple):
    """A stored delta: values [S, N, K], f16 or f32."""

    values: mx.array


class Values(NamedTuple):
    """One side of a factor as numbers: values [S, g, n], f16 or f32; n = N or K."""

    values: mx.array


class Codes(NamedTuple):
    """One side of a factor in MLX's affine packing: data u32 [S, g, n*bits/32], scales of 1 and biases of
    -(2^bits - 1) / 2 f32 [S, g, n/group]; n padded to a multiple of 32."""

    data: mx.array
    scales: mx.array
    biases: mx.array


FactorSideOperand = Values | Codes | SignOperand


class FactorGroupOperand(NamedTuple):
    """g columns of V (right) and U (left), and scale f32 [S, g] between them. 1 bit: left is Sign of [S, N, g]."""

    right: FactorSideOperand
    left: FactorSideOperand
    scale: mx.array | None


class FactorOperand(NamedTuple):
    """A part of low rank: diag(u) . U . diag(scale) . V^T . diag(v); u f32 [S, N], v f32 [S, K] or None (1)."""

    groups: tuple[FactorGroupOperand, ...]
    u: mx.array | None
    v: mx.array | None

    @property
    def slots(self) -> int:
        """S."""
        return int(self.groups[0].right[0].shape[0])


Operand = SignOperand | DenseOperand | FactorOperand


class NotEvaluable(Exception):
    """A launch that reads host memory was given an array that MLX is tracing, which has no values yet."""


Launch = Callable[[mx.array, Sequence[SignOperand], Sequence[mx.array | None], mx.array | None], Sequence[mx.array]]
"""launch(x, signs, y_bases, slots) -> one y a projection: the equation of `reference`, for 1 to 3 projections of one x.

    x        [M, K]      f32, f16 or bf16, M >= 1, any strides
    signs    1 to 3 planes of one K and one S, with the same scales present and the same block size; each has its own N
    y_bases  one a plane: [M, N] f32, f16 or bf16, or None (0) for all of them
    slots    [M] i32, or None: every row uses slot 0
    y        [M, N] in y_base's dtype, x's without one
"""
