"""|delta[..., n, k]| ~ scale[..., n, k] >= 0, in five shapes.

    tensor  scale[n, k] = a                  [E..]
    row     scale[n, k] = row[n]             [E.., N]
    col     scale[n, k] = col[k]             [E.., K]
    rowcol  scale[n, k] = row[n] * col[k]    [E.., N] and [E.., K]
    block   scale[n, k] = b[n, k // B]       [E.., N, ceil(K/B)]

The first three and `block` are the mean of the non-zero |delta| they cover; nothing but zeros gives 0. `rowcol` is the
least-squares rank-one fit of the non-zero |delta|, by alternating row and column solutions from the columns' means on:
all terms are >= 0, so it stays >= 0, and three passes settle it. Only the product of row and col is determined; they
are given equal means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..config import BLOCK_SIZES
from ..errors import ConfigError
from .pack import row_chunks

SCALES = ("tensor", "row", "col", "rowcol", "block")
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


def check_scale(scale: str, block: int | None) -> None:
    """`ConfigError` unless `scale` is one of `SCALES` and `block` goes with it."""
    if scale not in SCALES:
        raise ConfigError("unknown kind of scale", field="scale", expected=", ".join(SCALES), found=scale)
    if scale == "block" and block not in BLOCK_SIZES:
        raise ConfigError("bad block size", field="block", expected=BLOCK_SIZES, found=block)
    if scale != "block" and block is not None:
        raise ConfigError("only block scales have a block size", field="block", expected=None, found=block)


def fit_scales(delta: np.ndarray, scale: str, block: int | None = None) -> tuple[np.ndarray, ...]:
    """Scales of delta [E.., N, K] as f32 arrays of `scale_shapes`. Errors: ConfigError (kind, shape, not finite)."""
    if delta.ndim < 2 or delta.size == 0:
        raise ConfigError("scales need a matrix", field="shape", expected="[.., N, K]", found=delta.shape)
    shapes = scale_shapes(scale, delta.shape, block)
    out = tuple(np.empty(shape, dtype=np.float32) for shape in shapes)
    lead = math.prod(delta.shape[:-2])
    flat = delta.reshape(lead, *delta.shape[-2:])
    targets = [array.reshape(lead, *shape[delta.ndim - 2 :]) for array, shape in zip(out, shapes, strict=True)]
    for index in range(lead):
        fitted = _fit_rowcol(flat[index]) if scale == "rowcol" else (_fit_mean(flat[index], scale, block),)
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


def _magnitudes(matrix: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for rows in row_chunks(*matrix.shape):
        yield rows, np.abs(matrix[rows])


def _fit_mean(matrix: np.ndarray, scale: str, block: int | None) -> np.ndarray:
    n, k = matrix.shape
    edges = np.arange(0, k, block or k)
    by_column = scale == "col"
    total = np.zeros(k if by_column else (n, len(edges)))
    count = np.zeros(total.shape)
    for rows, magnitude in _magnitudes(matrix):
        full = np.count_nonzero(magnitude) == magnitude.size
        if by_column:
            total += magnitude.sum(axis=0, dtype=np.float64)
            count += len(magnitude) if full else np.count_nonzero(magnitude, axis=0)
        elif len(edges) == 1:
            total[rows, 0] = magnitude.sum(axis=1, dtype=np.float64)
            count[rows, 0] = k if full else np.count_nonzero(magnitude, axis=1)
        else:
            total[rows] = np.add.reduceat(magnitude, edges, axis=1, dtype=np.float64)
            count[rows] = (
                np.diff(edges, append=k) if full else np.add.reduceat(magnitude != 0, edges, axis=1, dtype=np.float64)
            )
    if scale == "tensor":
        total, count = total.sum(), count.sum()
    elif scale == "row":
        total, count = total[:, 0], count[:, 0]
    with np.errstate(over="ignore"):
        return np.asarray(total / np.maximum(count, 1)).astype(np.float32)


def _fit_rowcol(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, k = matrix.shape
    peak = max(abs(float(matrix.max())), abs(float(matrix.min())))
    if peak == 0 or not math.isfinite(peak):
        return np.full(n, peak), np.full(k, peak)
    # A pass over the matrix solves the rows for the columns it is given and sums up the next columns on the way. All
    # vectors stay in [0, 1] and only the matrix carries its unit: no product leaves float32's range.
    col = _fit_mean(matrix, "col", None).astype(np.float64) / peak
    row = np.zeros(n)
    for passes_left in reversed(range(_ROWCOL_PASSES)):
        col /= col.max()
        col_f32, col_square = col.astype(np.float32), np.square(col).astype(np.float32)
        weight = float(np.square(col).sum())
        above, below = np.zeros(k), np.zeros(k)
        for rows, magnitude in _magnitudes(matrix):
            magnitude = magnitude.astype(np.float32, copy=False)
            full = np.count_nonzero(magnitude) == magnitude.size
            mask = None if full else (magnitude != 0).astype(np.float32)
            solved = _ratio(magnitude @ col_f32, weight if mask is None else mask @ col_square)
            row[rows] = solved
            if passes_left:
                unit = (solved / peak).astype(np.float32)
                above += unit @ magnitude
                below += float(np.square(unit).sum()) if mask is None else np.square(unit) @ mask
        if passes_left:
            col = _ratio(above / peak, below)
    balance = math.sqrt(col.mean() / row.mean())
    return row * balance, col / balance


def _ratio(above: np.ndarray, below: np.ndarray | float) -> np.ndarray:
    below = np.broadcast_to(np.asarray(below, dtype=np.float64), above.shape)
    out = np.zeros(above.shape)
    np.divide(above, below, out=out, where=below > 0)
    return out
