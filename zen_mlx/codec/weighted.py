"""Sign-plane scales with the least error of a layer's output: E ||(D - scale * S) x||^2, given C = E[x x^T].

With d_n and s_n the rows of the delta D and of its signs S [N, K], and C [K, K] uncentred:

    row      row[n] = (d_n C s_n^T) / (s_n C s_n^T)
    tensor   the ratio of the sums over n of both
    col      A col = b,  A = C * (S^T S),  b[k] = sum_n S[n, k] (D C)[n, k]           the normal equations
    rowcol   each in turn for the other's last values, from `scales.fit_scales` on
    block    per row the normal equations of its blocks

A scale is never negative: where the equations ask for that, it is 0. With C = 1 these are the means of `scales`.
"""

from __future__ import annotations

import numpy as np

from .difference import Delta
from .pack import unpack_signs
from .scales import fit_scales

_ROWCOL_PASSES = 3
_RIDGE = 1e-4
"""Added to the diagonal of normal equations, as a share of its mean: C of few tokens is singular."""


def fit_weighted(
    delta: Delta, bits: np.ndarray, moment: np.ndarray, scale: str, block: int | None = None
) -> tuple[np.ndarray, ...]:
    """Scales of delta [E.., N, K] with signs `bits` u32 [E.., N, words], as f32 arrays of `scales.scale_shapes`.

    moment: f32 [K, K], for all matrices of the delta.
    """
    lead, (n, k) = delta.shape[:-2], delta.shape[-2:]
    start = fit_scales(delta, scale, block)
    flat_bits = bits.reshape(-1, n, bits.shape[-1])
    flat_start = [array.reshape(len(flat_bits), *array.shape[len(lead) :]) for array in start]
    made = []
    flat = delta.reshape(-1, n, k)
    for index in range(len(flat_bits)):
        signs = unpack_signs(flat_bits[index], k)
        first = [array[index] for array in flat_start]
        made.append(
            _fit(np.asarray(flat[index], np.float32), signs, np.asarray(moment, np.float32), scale, block, first)
        )
    return tuple(
        np.stack(arrays).reshape(given.shape) for arrays, given in zip(zip(*made, strict=True), start, strict=True)
    )


def _fit(
    delta: np.ndarray, signs: np.ndarray, moment: np.ndarray, scale: str, block: int | None, start: list[np.ndarray]
) -> list[np.ndarray]:
    wanted = (delta @ moment) * signs
    if scale == "block":
        return [_blocks(wanted, signs, moment, block or 1)]
    if scale == "col":
        return [_columns(wanted, signs, moment, np.ones(len(delta), np.float32))]
    if scale in ("tensor", "row"):
        above, below = wanted.sum(axis=1), ((signs @ moment) * signs).sum(axis=1)
        if scale == "tensor":
            return [_ratio(above.sum(), below.sum())]
        return [_ratio(above, below)]
    row, col = start
    for _ in range(_ROWCOL_PASSES):
        col = _columns(wanted, signs, moment, row)
        scaled = signs * col
        row = _ratio(wanted @ col, ((scaled @ moment) * scaled).sum(axis=1))
    balance = np.sqrt(max(float(row.mean()), 1e-30) / max(float(col.mean()), 1e-30))
    return [np.asarray(row / balance, np.float32), np.asarray(col * balance, np.float32)]


def _columns(wanted: np.ndarray, signs: np.ndarray, moment: np.ndarray, row: np.ndarray) -> np.ndarray:
    scaled = signs * row[:, None]
    normal = (moment * (scaled.T @ scaled)).astype(np.float64)
    normal[np.diag_indices(len(normal))] += _RIDGE * np.trace(normal) / len(normal) + 1e-30
    return np.maximum(np.linalg.solve(normal, row @ wanted), 0).astype(np.float32)


def _blocks(wanted: np.ndarray, signs: np.ndarray, moment: np.ndarray, block: int) -> np.ndarray:
    n, k = signs.shape
    edges = np.arange(0, k, block)
    normal = np.empty((n, len(edges), len(edges)), np.float64)
    for index, edge in enumerate(edges):
        inside = slice(edge, edge + block)
        normal[:, index] = np.add.reduceat((signs[:, inside] @ moment[inside]) * signs, edges, axis=1)
    diagonal = np.arange(len(edges))
    mean = normal[:, diagonal, diagonal].mean(axis=1, keepdims=True)
    normal[:, diagonal, diagonal] += _RIDGE * mean + 1e-30
    right = np.add.reduceat(wanted, edges, axis=1)[..., None]
    return np.maximum(np.linalg.solve(normal, right)[..., 0], 0).astype(np.float32)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    safe = np.where(below > 0, below, 1)
    return np.asarray(np.maximum(np.where(below > 0, above / safe, 0), 0), np.float32)
