"""delta = diag(u) . U . diag(l) . V^T . diag(v): low-rank factors, in groups of columns that share a number of bits.

    bits   a column of U or V
    1      +1 or -1
    2-8    (code - (2^bits - 1) / 2) * step, a step for each column
    16,32  float16, float32

l scales the columns of the 1-, 16- and 32-bit groups. Factors lie transposed, a column of U or V being a row of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import float_name
from .pack import code_values

FACTOR_BITS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, eq=False)
class FactorSide:
    """A group's columns of U (n = N) or of V (n = K).

    data: u32 signs or codes [E.., g, ceil(n * bits / 32)], or float16 or float32 values [E.., g, n].
    steps: float16 [E.., g] in groups of 2 to 8 bits, else None.
    """

    steps: np.ndarray | None
    data: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.steps is None else self.steps.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class FactorGroup:
    """`rank` columns of U and V of `bits` each. scales: l [E.., g] in groups of 1, 16 and 32 bits, else None."""

    bits: int
    scales: np.ndarray | None
    left: FactorSide
    right: FactorSide

    @property
    def rank(self) -> int:
        return int(self.left.data.shape[-2]) if self.left.data.ndim > 1 else 0

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes + (0 if self.scales is None else self.scales.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class FactorPart:
    """u [E.., N], v [E.., K] or None (all ones); `groups` of strictly falling bits. u, v and l share a dtype."""

    u: np.ndarray | None
    v: np.ndarray | None
    groups: tuple[FactorGroup, ...]

    @property
    def dtype(self) -> str:
        """`f16` or `f32`: how u, v and l are stored; `f16` where there is none of them."""
        arrays = (self.u, self.v, *(group.scales for group in self.groups))
        return next((float_name(array) for array in arrays if array is not None), "f16")

    @property
    def rank(self) -> int:
        return sum(group.rank for group in self.groups)

    @property
    def nbytes(self) -> int:
        own = sum(array.nbytes for array in (self.u, self.v) if array is not None)
        return own + sum(group.nbytes for group in self.groups)


def side_values(side: FactorSide, bits: int, n: int) -> np.ndarray:
    """float32 [E.., g, n]: the columns of U or V as numbers, without l."""
    if bits >= 16:
        return side.data.astype(np.float32)
    values = code_values(side.data, n, bits)
    if side.steps is not None:
        values *= side.steps.astype(np.float32)[..., None]
    return values


def decode_group(group: FactorGroup, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [*shape]: U . diag(l) . V^T of one group."""
    left = side_values(group.left, group.bits, shape[-2])
    if group.scales is not None:
        left *= group.scales.astype(np.float32)[..., None]
    product: np.ndarray = np.matmul(left.swapaxes(-1, -2), side_values(group.right, group.bits, shape[-1]))
    return product.reshape(shape)


def decode_factor(part: FactorPart, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [*shape]."""
    out = decode_group(part.groups[0], shape)
    for group in part.groups[1:]:
        out += decode_group(group, shape)
    if part.u is not None:
        out *= part.u.astype(np.float32)[..., None]
    if part.v is not None:
        out *= part.v.astype(np.float32)[..., None, :]
    return out
