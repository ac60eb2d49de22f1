"""|delta[..., n, k]| ~ scale[..., n, k] >= 0, in five shapes.

    tensor  scale[n, k] = a                  [E..]
    row     scale[n, k] = row[n]             [E.., N]
    col     scale[n, k] = col[k]             [E.., K]
    rowcol  scale[n, k] = row[n] * col[k]    [E.., N] and [E.., K]
    block   scale[n, k] = b[n, k // B]       [E.., N, ceil(K/B)]

The first three and `block` are the mean of the non-zero |delta| they cover; nothing but zeros gives 0. `rowcol` is the
least-squares rank-one fit of the non-zero |delta|, by alternating row and column solutions from the columns' means on:
all terms are >= 0, so it stays >= 0, and three passes suffice. Only the product of row and col is determined; they
are given equal means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..config import BLOCK_SIZES, SCALES
from ..errors import ConfigError
from .arrays import over_rows
from .difference import Delta
from .pack import empty_bits, pack_rows

_ROWCOL_PASSES = 3


def scale_shapes(scale: str, shape: tuple[int, ...], block: int | None) -> tuple[tuple[int, ...], ...]:
    """The shapes of the scale arrays of a delta of `shape` [E.., N, K]."""
    check_scale(scale, block)
    *lead, n, k = shape
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "tensor": ((*lead,),),
        "row": ((*lead, n),),
        "col": ((*lead, k),),
        "rowcol": ((*lead, n), (*lead, k)),
        "block": ((*lead, n, -(-k // (block or 1))),),
    }
    return shapes[scale]


def scale_sizes(scale: str, shape: tuple[int, ...], block: int | None) -> np.ndarray:
    """How many weights of a matrix of `shape` [.., N, K] each scale covers: a number, or one a block; not for rowcol."""
    n, k = shape[-2:]
    if scale == "block":
        return np.diff(np.arange(0, k, block or k), append=k)
    return np.asarray({"tensor": n * k, "row": k, "col": n}[scale])


def check_scale(scale: str, block: int | None) -> None:
    """`ConfigError` unless `scale` is one of `SCALES` and `block` goes with it."""
    if scale not in SCALES:
        raise ConfigError("unknown kind of scale", field="scale", expected=", ".join(SCALES), found=scale)
    if scale == "block" and block not in BLOCK_SIZES:
        raise ConfigError("bad block size", field="block", expected=BLOCK_SIZES, found=block)
    if scale != "block" and block is not None:
        raise ConfigError("only block scales have a block size", field="block", expected=None, found=block)


@dataclass(eq=False)
class Seen:
    """What the first pass over a delta D [E.., N, K] finds besides its scales.

    bits: `pack_signs` of D. Of all kinds but `rowcol` also `totals`, sum |D| over what each scale covers, f64 in the shape
    of the scales, and `energy`, ||D||^2.
    """

    bits: np.ndarray = field(default_factory=lambda: empty_bits((1,)))
    totals: np.ndarray | None = None
    energy: float = 0.0


def fit_scales(delta: Delta, scale: str, block: int | None = None, seen: Seen | None = None) -> tuple[np.ndarray, ...]:
    """Scales of delta [E.., N, K] as f32 arrays of `scale_shapes`; `seen` takes what else the pass finds.

    Errors: ConfigError (kind, shape, not finite).
    """
    if delta.ndim < 2 or delta.size == 0:
        raise ConfigError("scales need a matrix", field="shape", expected="[.., N, K]", found=delta.shape)
    shapes = scale_shapes(scale, delta.shape, block)
    out = tuple(np.empty(shape, dtype=np.float32) for shape in shapes)
    lead = math.prod(delta.shape[:-2])
    flat = delta.reshape(lead, *delta.shape[-2:])
    targets = [array.reshape(lead, *shape[delta.ndim - 2 :]) for array, shape in zip(out, shapes, strict=True)]
    if seen is not None:
        seen.bits = empty_bits(delta.shape)
        seen.totals = None if scale == "rowcol" else np.zeros(shapes[0])
    for index in range(lead):
        bits = None if seen is None else seen.bits.reshape(lead, *seen.bits.shape[-2:])[index]
        if scale == "rowcol":
            fitted: tuple[np.ndarray, ...] = _fit_rowcol(flat[index], bits)
        else:
            mean, total, energy = _fit_mean(flat[index], scale, block, bits)
            fitted = (mean,)
            if seen is not None and seen.totals is not None:
                seen.totals.reshape(lead, *total.shape)[index] = total
                seen.energy += energy
        for target, values in zip(targets, fitted, strict=True):
            target[index] = values
    if not all(np.isfinite(array).all() for array in out):
        raise ConfigError("the delta is not finite", field="delta", expected="finite numbers", found="NaN or infinity")
    return out


def expand_scales(scale: str, arrays: tuple[np.ndarray, ...], shape: tuple[int, ...], block: int | None) -> np.ndarray:
    """The scale arrays as one float32 array that broadcasts to `shape`."""
    first = np.asarray(arrays[0], dtype=np.float32)
    check_scale(scale, block)
    if scale == "tensor":
        return first[..., None, None]
    if scale == "row":
        return first[..., None]
    if scale == "col":
        return first[..., None, :]
    if scale == "rowcol":
        product: np.ndarray = first[..., None] * np.asarray(arrays[1], dtype=np.float32)[..., None, :]
        return product
    return np.repeat(first, block or 1, axis=-1)[..., : shape[-1]]


def _fit_mean(
    matrix: Delta, scale: str, block: int | None, bits: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """(scales, sums of magnitudes, the matrix's energy); bits take the signs, without them no energy is summed up."""
    n, k = matrix.shape
    edges = np.arange(0, k, block or k)
    ones = np.ones(k, np.float32)

    def sums(rows: slice) -> tuple[np.ndarray, np.ndarray, float]:
        """Sums of the magnitudes and numbers of the non-zero ones: by column, or by row and block. The energy."""
        some, energy = matrix[rows], 0.0
        if bits is not None:
            pack_rows(some, bits[rows])
            energy = dot(some, some)
        magnitude = np.abs(some)
        full = bool(magnitude.min() > 0)
        there = np.broadcast_to(True, magnitude.shape) if full else magnitude != 0
        if scale == "col":
            counts = np.full(k, len(there)) if full else np.count_nonzero(there, axis=0)
            return magnitude.sum(axis=0, dtype=np.float64), counts, energy
        if len(edges) == 1:
            counts = np.full(len(there), k) if full else there.view(np.uint8).sum(axis=1, dtype=np.uint32)
            total = magnitude @ ones  # by BLAS; where that overflows, in f64
            total = total if np.isfinite(total).all() else magnitude.sum(axis=1, dtype=np.float64)
            return total[:, None], counts[:, None], energy
        if full:
            counts = np.broadcast_to(scale_sizes("block", matrix.shape, block), (len(there), len(edges)))
        else:
            counts = np.add.reduceat(there, edges, axis=1, dtype=np.float64)
        return np.add.reduceat(magnitude, edges, axis=1, dtype=np.float64), counts, energy

    found = over_rows(sums, n, k)
    totals, counts = [each[0] for each in found], [each[1] for each in found]
    if scale == "col":
        total, count = _added(totals), _added(counts)
    else:
        total, count = (np.concatenate(each).astype(np.float64) for each in (totals, counts))
    if scale == "tensor":
        total, count = total.sum(), count.sum()
    elif scale == "row":
        total, count = total[:, 0], count[:, 0]
    with np.errstate(over="ignore"):
        mean = np.asarray(total / np.maximum(count, 1)).astype(np.float32)
    return mean, np.asarray(total), sum(each[2] for each in found)


def _fit_rowcol(matrix: Delta, bits: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    n, k = matrix.shape
    peak = _largest(matrix, bits)
    if peak == 0 or not math.isfinite(peak):
        return np.full(n, peak), np.full(k, peak)
    # A pass over the matrix solves the rows for the columns it is given and sums up the next columns on the way. All
    # vectors stay in [0, 1] and only the matrix carries its unit: no product leaves float32's range.
    col = _fit_mean(matrix, "col", None)[0].astype(np.float64) / peak
    row = np.zeros(n)
    for passes_left in reversed(range(_ROWCOL_PASSES)):
        col /= col.max()
        sums = _solve_rows(matrix, col, row, peak, last=not passes_left)
        if passes_left:
            above, below = _added([each[0] for each in sums]), _added([np.broadcast_to(each[1], k) for each in sums])
            col = _ratio(above / peak, below)
    balance = math.sqrt(col.mean() / row.mean())
    return row * balance, col / balance


def _largest(matrix: Delta, bits: np.ndarray | None = None) -> float:
    """The largest magnitude in a matrix; NaN where there is one. bits: u32 [N, ceil(K/32)] that takes its signs."""

    def peak(rows: slice) -> float:
        some = matrix[rows]
        if bits is not None:
            pack_rows(some, bits[rows])
        return float(np.maximum(some.max(), -some.min()))

    return float(np.max(over_rows(peak, matrix.shape[0], matrix.shape[1])))


def _solve_rows(
    matrix: Delta, col: np.ndarray, row: np.ndarray, peak: float, last: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Solve `row` for `col`; unless it was the last time, each chunk's share of the sums that solve the columns."""
    col_f32, col_square = col.astype(np.float32), np.square(col).astype(np.float32)
    weight = float(np.square(col).sum())
    nothing = np.zeros(0)

    def solve(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        magnitude = np.abs(matrix[rows]).astype(np.float32, copy=False)
        there = magnitude != 0
        mask = None if np.count_nonzero(there) == there.size else there.astype(np.float32)
        solved = _ratio(magnitude @ col_f32, weight if mask is None else mask @ col_square)
        row[rows] = solved
        if last:
            return nothing, nothing
        unit = (solved / peak).astype(np.float32)
        square = np.square(unit)
        return unit @ magnitude, np.asarray(square.sum() if mask is None else square @ mask)

    return over_rows(solve, matrix.shape[0], matrix.shape[1])


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products: in f32 over rows of the last axis, the rows' sums in f64."""
    k = a.shape[-1]
    return float(np.vecdot(a.reshape(-1, k), b.reshape(-1, k)).sum(dtype=np.float64))


def _added(vectors: list[np.ndarray]) -> np.ndarray:
    """Their sum in f64, in order."""
    return np.asarray(np.sum(vectors, axis=0, dtype=np.float64))


def _ratio(above: np.ndarray, below: np.ndarray | float) -> np.ndarray:
    below = np.broadcast_to(np.asarray(below, dtype=np.float64), above.shape)
    out = np.zeros(above.shape)
    np.divide(above, below, out=out, where=below > 0)
    return out
