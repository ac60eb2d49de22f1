"""Factors, or the matrix itself -> a `FactorPart`: U and V in groups of bits, the largest directions first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import ConfigError
from .arrays import DTYPES, F16_LARGEST, F16_SMALLEST, narrowed
from .factor import FACTOR_BITS, FactorGroup, FactorPart, FactorSide, side_values
from .pack import CODE_BITS, pack_codes, quantize
from .svd import leading_factors, weighted_factors

_UNIT_RANGE = (2.0**-16, 2.0**28)
"""Where the largest product of a column of U and one of V may lie: beyond it float16 steps lose precision."""
_VALUE_RANGE = (2.0**-11, F16_LARGEST)
"""Where the largest of a float16 column may lie: beyond it the column is scaled by a power of two."""

_Side = tuple[FactorSide, np.ndarray | None]
"""A side, and the [E.., g] that l must hold for it (None for 2 to 8 bits)."""


def encode_factor(
    left: np.ndarray,
    right: np.ndarray,
    groups: Sequence[Sequence[int]],
    u: np.ndarray | None = None,
    v: np.ndarray | None = None,
    dtype: str = "f16",
) -> FactorPart:
    """diag(u) . U . V^T . diag(v) with U = left [E.., N, r], V = right [E.., K, r]; `groups` [[bits, rank], ..] in order.

    Exact for 32 bits, and for 16 where float16 holds the values; else the nearest values. u, v and l are stored as
    `dtype`, f32 where float16 cannot hold one. Where float16 steps could not hold the factors, a constant u is added.
    Errors: ConfigError for shapes, groups or a dtype that do not fit, and for numbers that are not finite.
    """
    if left.ndim < 2 or right.shape != (*left.shape[:-2], *right.shape[-2:-1], left.shape[-1]):
        found = (left.shape, right.shape)
        raise ConfigError(
            "the shapes of the factors do not match", field="shape", expected="[.., N, r] and [.., K, r]", found=found
        )
    pairs = _check((*left.shape[:-1], right.shape[-2]), groups, u, v, dtype)
    if sum(rank for _, rank in pairs) != left.shape[-1]:
        raise ConfigError("the ranks do not match", field="groups", expected=left.shape[-1], found=pairs)
    sides = [np.array(side.swapaxes(-1, -2), dtype=np.float32, order="C") for side in (left, right)]
    if not all(np.isfinite(side).all() for side in sides):
        raise ConfigError("a factor is not finite", field="factors", expected="finite numbers", found="NaN or infinity")
    dense = sum(rank for bits, rank in pairs if bits >= 16)
    coded = slice(dense, dense + sum(rank for bits, rank in pairs if 1 < bits < 16))
    peaks = [np.abs(side[..., coded, :]).max(axis=-1, initial=0.0).astype(np.float64) for side in sides]
    unit = _unit((peaks[0] * peaks[1]).max(axis=-1, initial=0.0))
    if unit is not None:
        sides[0] /= unit[..., None, None]
        peaks[0] /= unit[..., None]
    # Each pair of columns is brought to like peaks, by a power of two that leaves its product as it is.
    fine = (peaks[0] > 0) & (peaks[1] > 0)
    ratio = np.where(fine, peaks[1], 1) / np.where(fine, peaks[0], 1)
    exponent = np.frexp(np.sqrt(ratio))[1] - 1
    for side, sign in zip(sides, (1, -1), strict=True):
        side[..., coded, :] = np.ldexp(side[..., coded, :], sign * exponent[..., None])
    made, at = [], 0
    for bits, rank in pairs:
        first, second = (_encode_side(side[..., at : at + rank, :], bits) for side in sides)
        made.append((bits, first, second))
        at += rank
    return _assemble(made, _with_unit(u, unit, left.shape[:-1]), v, dtype if unit is None else "f32")


def encode_svd(
    delta: np.ndarray,
    groups: Sequence[Sequence[int]],
    u: np.ndarray | None = None,
    v: np.ndarray | None = None,
    dtype: str = "f16",
    moment: np.ndarray | None = None,
) -> FactorPart:
    """delta [E.., N, K] -> the factors that leave least of diag(u)^-1 . delta . diag(v)^-1, `groups` [[bits, rank], ..].

    Each group takes the leading singular directions of what the groups before it, as stored, leave over, and each of
    its sides is fitted once more to the other as stored. With moment = E[x x^T], f32 [K, K] (and no u or v), least is
    E ||(delta - its factors) x||. A row or column whose u or v is 0 is left at 0. Errors: ConfigError as `encode_factor`.
    """
    pairs = _check(delta.shape, groups, u, v, dtype)
    if moment is not None and (u is not None or v is not None or moment.shape != (delta.shape[-1],) * 2):
        expected = f"[{delta.shape[-1]}, {delta.shape[-1]}], without u and v"
        raise ConfigError("bad shape of the input statistics", field="moment", expected=expected, found=moment.shape)
    n, k = delta.shape[-2:]
    lead = delta.shape[:-2]
    rests = delta.reshape(-1, n, k)
    inverse = [
        None if array is None else np.divide(1, array, out=np.zeros(array.shape, np.float32), where=array > 0)
        for array in (u, v)
    ]
    units, matrices = np.ones(len(rests), np.float32), []
    has_steps, needed = any(1 < bits < 16 for bits, _ in pairs), False
    for index, rest in enumerate(rests):
        matrix = rest.astype(np.float32)
        if inverse[0] is not None:
            matrix *= inverse[0].reshape(-1, n)[index][:, None]
        if inverse[1] is not None:
            matrix *= inverse[1].reshape(-1, k)[index]
        peak = max(float(matrix.max()), -float(matrix.min()))
        if not np.isfinite(peak):
            expected, found = "finite numbers", "NaN or infinity"
            raise ConfigError("the delta is not finite", field="delta", expected=expected, found=found)
        unit = _unit(np.array(peak)) if has_steps else None
        if unit is not None:
            units[index], needed = unit, True
            matrix /= unit
        matrices.append(list(_fit_groups(matrix, pairs, moment)))
    made = []
    for number, (bits, rank) in enumerate(pairs):
        first, second = (_stack([each[number][side] for each in matrices], (*lead, rank)) for side in (0, 1))
        made.append((bits, first, second))
    unit = units.reshape(lead) if needed else None
    return _assemble(made, _with_unit(u, unit, delta.shape[:-1]), v, dtype if unit is None else "f32")


def _fit_groups(
    rest: np.ndarray, pairs: Sequence[tuple[int, int]], moment: np.ndarray | None
) -> Iterator[tuple[_Side, _Side]]:
    """The two sides of each group in turn; `rest` is changed to what is left over."""
    n, k = rest.shape
    for number, (bits, rank) in enumerate(pairs):
        left, right = leading_factors(rest, rank) if moment is None else weighted_factors(rest, rank, moment)[:2]
        left_side, right_side = _encode_side(left, bits), _encode_side(right, bits)
        if bits < 16:
            right_side = _encode_side(_solve(_decoded(left_side, bits, n), rest), bits)
            left_side = _encode_side(_solve(_decoded(right_side, bits, k), rest.T, moment), bits)
        yield left_side, right_side
        if number + 1 < len(pairs):
            rest -= _decoded(left_side, bits, n).T @ _decoded(right_side, bits, k)


def _solve(side: np.ndarray, rest: np.ndarray, moment: np.ndarray | None = None) -> np.ndarray:
    """The other side [g, K] of least squares: argmin_V ||C^(1/2) (rest - side.T @ V)|| for side [g, N], rest [N, K]."""
    gram = side.astype(np.float64)
    seen = gram if moment is None else gram @ moment
    inverse = np.linalg.pinv(seen @ gram.T, rcond=1e-10, hermitian=True)
    return ((inverse @ seen).astype(np.float32) @ rest).astype(np.float32, copy=False)


def _encode_side(columns: np.ndarray, bits: int) -> _Side:
    """float32 [E.., g, n] as stored."""
    if bits == 1:
        return FactorSide(None, pack_codes((columns >= 0).astype(np.uint8), 1)), np.abs(columns).mean(axis=-1)
    if bits in CODE_BITS:
        steps, codes = quantize(columns, bits)
        return FactorSide(steps, pack_codes(codes, bits)), None
    ones = np.ones(columns.shape[:-1], dtype=np.float32)
    if bits == 32:
        return FactorSide(None, columns.astype("<f4")), ones
    with np.errstate(over="ignore"):
        exact = (columns.astype(np.float16) == columns).all(axis=-1)
    top = np.abs(columns).max(axis=-1, initial=0.0)
    fits = exact | ((top >= _VALUE_RANGE[0]) & (top <= _VALUE_RANGE[1]))
    exponent = np.where(fits, 0, np.frexp(top)[1])
    return FactorSide(None, np.ldexp(columns, -exponent[..., None]).astype("<f2")), np.ldexp(ones, exponent)


def _decoded(side: _Side, bits: int, n: int) -> np.ndarray:
    values = side_values(side[0], bits, n)
    if side[1] is not None:
        values *= side[1][..., None]
    return values


def _stack(sides: Sequence[_Side], lead: tuple[int, ...]) -> _Side:
    """One side [E.., g, ..] of the matrices' sides [g, ..]."""

    def stack(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        given = [array for array in arrays if array is not None]
        return np.stack(given).reshape(*lead, *given[0].shape[1:]) if given else None

    data = np.stack([side.data for side, _ in sides])
    steps = stack([side.steps for side, _ in sides])
    return FactorSide(steps, data.reshape(*lead, data.shape[-1])), stack([own for _, own in sides])


def _assemble(
    groups: Sequence[tuple[int, _Side, _Side]], u: np.ndarray | None, v: np.ndarray | None, dtype: str
) -> FactorPart:
    """The part of (bits, left, right) groups, with u, v and every l in one dtype."""
    own = [None if a is None or b is None else a * b for _, (_, a), (_, b) in groups]
    if any(array is not None and ((array > 0) & (array < F16_SMALLEST)).any() for array in own):
        dtype = "f32"
    own = [u, v, *own]
    stored = iter(narrowed(tuple(array for array in own if array is not None), dtype))
    u, v, *scales = (None if array is None else next(stored) for array in own)
    made = (
        FactorGroup(bits, scale, left, right)
        for scale, (bits, (left, _), (right, _)) in zip(scales, groups, strict=True)
    )
    return FactorPart(u, v, tuple(made))


def _check(
    shape: tuple[int, ...], groups: Sequence[Sequence[int]], u: np.ndarray | None, v: np.ndarray | None, dtype: str
) -> list[tuple[int, int]]:
    """`groups` as pairs. ConfigError unless bits fall, ranks are >= 1 and fit into [.., N, K], and u and v fit it."""
    if len(shape) < 2 or 0 in shape:
        raise ConfigError("factors need a matrix", field="shape", expected="[.., N, K]", found=shape)
    pairs = [(int(bits), int(rank)) for bits, rank in groups]
    bits = [pair[0] for pair in pairs]
    if not pairs or any(each not in FACTOR_BITS for each in bits) or bits != sorted(set(bits), reverse=True):
        expected = f"decreasing bits out of {', '.join(map(str, FACTOR_BITS))}"
        raise ConfigError("bad groups of factors", field="groups", expected=expected, found=bits)
    ranks, limit = [pair[1] for pair in pairs], min(shape[-2:])
    if min(ranks) < 1 or sum(ranks) > limit:
        expected = f"ranks of 1 or more, at most {limit} in all"
        raise ConfigError("bad ranks", field="groups", expected=expected, found=ranks)
    if dtype not in DTYPES:
        raise ConfigError("unknown dtype", field="dtype", expected=", ".join(DTYPES), found=dtype)
    for name, array, wanted in (("u", u, shape[:-1]), ("v", v, (*shape[:-2], shape[-1]))):
        if array is not None and array.shape != wanted:
            raise ConfigError("wrong shape", field=name, expected=wanted, found=array.shape)
        if array is not None and not (np.isfinite(array).all() and array.min() >= 0):
            raise ConfigError("bad scale", field=name, expected="finite numbers >= 0", found=str(array.min()))
    return pairs


def _unit(peaks: np.ndarray) -> np.ndarray | None:
    """float32 powers of two that bring every peak near 1; None where all are fit for float16 steps as they are."""
    if ((peaks == 0) | ((peaks >= _UNIT_RANGE[0]) & (peaks <= _UNIT_RANGE[1]))).all():
        return None
    exponent = np.clip(np.frexp(peaks)[1] - 1, -120, 120)
    return np.asarray(np.ldexp(np.float32(1), np.where(peaks > 0, exponent, 0)), dtype=np.float32)


def _with_unit(u: np.ndarray | None, unit: np.ndarray | None, rows: tuple[int, ...]) -> np.ndarray | None:
    """u * unit, where u is ones if it is None; None if there is neither."""
    if unit is None:
        return None if u is None else np.asarray(u, dtype=np.float32)
    ones = np.ones(rows, dtype=np.float32) if u is None else np.asarray(u, dtype=np.float32)
    return ones * unit[..., None]
