"""delta = sum over parts of decode(part): a sign plane with its scales, plain values, factors, or some rows.

Rows: delta[rows[i], :] = values[i, :], 0 in every other row: vocabulary rows that changed or were added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .arrays import DTYPES, float_name, narrowed, over_rows
from .difference import Delta
from .factor import FactorPart, decode_factor
from .pack import unpack_signs, words
from .scales import Seen, check_scale, expand_scales, fit_scales


@dataclass(frozen=True, slots=True, eq=False)
class RowsPart:
    """rows: u32 [R], strictly rising. values: float16 or float32 [R, K]."""

    rows: np.ndarray
    values: np.ndarray

    @property
    def dtype(self) -> str:
        """`f16` or `f32`: how the values are stored."""
        return float_name(self.values)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.values.nbytes


def encode_rows(delta: np.ndarray, dtype: str = "f16") -> RowsPart:
    """delta [N, K] -> the rows of it that are not zero everywhere; f32 where float16 cannot hold the values.

    Errors: ConfigError for a delta that is not a matrix, not finite, or zero everywhere, and for an unknown dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError("unknown dtype", field="dtype", expected=", ".join(DTYPES), found=dtype)
    if delta.ndim != 2:
        raise ConfigError("rows need a matrix", field="shape", expected="[N, K]", found=delta.shape)
    rows = np.flatnonzero(delta.any(axis=1))
    if not rows.size:
        raise ConfigError("no row of the delta changed", field="delta", expected="a row that is not zero", found="none")
    values = delta[rows].astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ConfigError("the delta is not finite", field="delta", expected="finite numbers", found="NaN or infinity")
    return RowsPart(rows.astype("<u4"), narrowed((values,), dtype)[0])


def decode_rows(part: RowsPart, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [N, K]."""
    out = np.zeros(shape, dtype=np.float32)
    out[part.rows] = part.values
    return out


MAX_PARTS = 16


@dataclass(frozen=True, slots=True, eq=False)
class SignPart:
    """scale[n, k] * (+1 where bit k of row n is set, else -1).

    bits: u32 [E.., N, ceil(K/32)]. scales: the arrays of `scales.scale_shapes`, all float16 or all float32.
    block: columns per scale for the kind `block`, else None.
    """

    scale: str
    block: int | None
    bits: np.ndarray
    scales: tuple[np.ndarray, ...]

    @property
    def dtype(self) -> str:
        """`f16` or `f32`: how the scales are stored."""
        return float_name(self.scales[0])

    @property
    def nbytes(self) -> int:
        return self.bits.nbytes + sum(array.nbytes for array in self.scales)


@dataclass(frozen=True, slots=True, eq=False)
class DensePart:
    """The values themselves, float16 or float32, in the parameter's full shape."""

    values: np.ndarray

    @property
    def dtype(self) -> str:
        """`f16` or `f32`: how the values are stored."""
        return float_name(self.values)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


Part = SignPart | DensePart | FactorPart | RowsPart


def encode_sign(
    delta: Delta,
    scale: str = "rowcol",
    block: int | None = None,
    planes: int = 1,
    dtype: str = "f16",
    seen: Seen | None = None,
) -> list[SignPart]:
    """delta [E.., N, K] -> `planes` sign parts; plane i codes what the planes before it leave over.

    `seen` takes what is found of `delta` on the way.

    Scales are rounded to `dtype` before the rest is taken, so a later plane also corrects the rounding. A plane whose
    scales float16 cannot hold (one over 65504, or all under 2^-17) is stored as f32 instead.
    Errors: ConfigError for a delta that is not finite, has fewer than two axes, or an unknown setting.
    """
    check_scale(scale, block)
    if dtype not in DTYPES:
        raise ConfigError("unknown dtype", field="dtype", expected=", ".join(DTYPES), found=dtype)
    if not 1 <= planes <= MAX_PARTS:
        raise ConfigError("bad number of planes", field="planes", expected=f"1 to {MAX_PARTS}", found=planes)
    parts: list[SignPart] = []
    rest: Delta = delta
    for plane in range(planes):
        own = seen if seen is not None and plane == 0 else Seen()
        scales = narrowed(fit_scales(rest, scale, block, own), dtype)
        part = SignPart(scale, block, own.bits, scales)
        parts.append(part)
        if plane + 1 < planes:
            if plane == 0:
                rest = np.array(delta, dtype=np.float32, order="C")
            _subtract(np.asarray(rest), part)
    return parts


def decode(part: Part, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [*shape]: what `part` adds to the parameter."""
    if isinstance(part, DensePart):
        return part.values.astype(np.float32).reshape(shape)
    if isinstance(part, FactorPart):
        return decode_factor(part, shape)
    if isinstance(part, RowsPart):
        return decode_rows(part, shape)
    out = unpack_signs(part.bits, shape[-1])
    if part.scale == "rowcol":
        # In two steps: the full product would be another array of the delta's size.
        out *= expand_scales("row", part.scales[:1], shape, None)
        out *= expand_scales("col", part.scales[1:], shape, None)
    else:
        out *= expand_scales(part.scale, part.scales, shape, part.block)
    return out.reshape(shape)


def decode_all(parts: Sequence[Part], shape: tuple[int, ...]) -> np.ndarray:
    """float32 [*shape]: the sum of the parts, in order."""
    if not parts:
        return np.zeros(shape, dtype=np.float32)
    out = decode(parts[0], shape)
    for part in parts[1:]:
        out += decode(part, shape)
    return out


def rows_of(part: SignPart | DensePart, shape: tuple[int, ...], matrix: int, rows: slice) -> SignPart | DensePart:
    """The part of `rows` of one of the matrices [N, K] that `shape` [E.., N, K] is made of."""
    n, k = shape[-2:]
    if isinstance(part, DensePart):
        return DensePart(part.values.reshape(-1, n, k)[matrix, rows])

    def some(position: int, array: np.ndarray) -> np.ndarray:
        values: np.ndarray = array.reshape(-1, *array.shape[len(shape) - 2 :])[matrix]
        by_row = part.scale in ("row", "block") or (part.scale == "rowcol" and position == 0)
        return values[rows] if by_row else values

    scales = tuple(np.asarray(some(position, array)) for position, array in enumerate(part.scales))
    return SignPart(part.scale, part.block, part.bits.reshape(-1, n, words(k))[matrix, rows], scales)


def _subtract(rest: np.ndarray, part: SignPart) -> None:
    """rest -= decode(part), a few rows at a time."""
    n, k = rest.shape[-2:]
    for matrix, values in enumerate(rest.reshape(-1, n, k)):

        def subtract(rows: slice, matrix: int = matrix, values: np.ndarray = values) -> None:
            values[rows] -= decode(rows_of(part, rest.shape, matrix, rows), (rows.stop - rows.start, k))

        over_rows(subtract, n, k)
