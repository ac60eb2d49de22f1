"""Encoding statistics of a layer: how much of a change its stored parts keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..codec.arrays import over_rows
from ..codec.difference import Delta
from ..codec.parts import DensePart, Part, SignPart, decode_all, rows_of
from ..codec.scales import Seen, dot, scale_sizes
from ..format.spec import DeltaTensor


@dataclass(frozen=True)
class LayerStats:
    """How well one tensor's delta D is kept by what was stored, D'.

    delta_rms is D's root mean square; relative_error = ||D' - D|| / ||D||; energy_kept = 1 - relative_error^2
    (negative where D' is worse than nothing); cosine is the angle's between D' and D; nbytes is the stored size.
    """

    name: str
    shape: tuple[int, ...]
    delta_rms: float
    relative_error: float
    energy_kept: float
    cosine: float
    nbytes: int


def measure(name: str, delta: Delta, tensor: DeltaTensor, seen: Seen | None = None) -> LayerStats:
    """Compare a non-zero delta with what `tensor` decodes to.

    seen: what `encode_sign` saw of the delta when it made the one plane that `tensor` consists of.
    """
    energy, kept_energy, shared, lost = (float(each) for each in _sums(delta, tensor, seen))
    lost /= energy
    return LayerStats(
        name=name,
        shape=tensor.shape,
        delta_rms=(energy / delta.size) ** 0.5,
        relative_error=lost**0.5,
        energy_kept=1.0 - lost,
        cosine=shared / (energy * kept_energy) ** 0.5 if kept_energy else 0.0,
        nbytes=tensor.nbytes,
    )


def _sums(delta: Delta, tensor: DeltaTensor, seen: Seen | None) -> np.ndarray:
    """||D||^2, ||D'||^2, <D, D'> and ||D' - D||^2; signs and plain values are looked at a few rows at a time."""
    shape = tensor.shape if len(tensor.shape) > 1 else (1, *(tensor.shape or (1,)))
    n, k = shape[-2:]
    flat = delta.reshape(-1, k)
    parts: list[SignPart | DensePart] = [part for part in tensor.parts if isinstance(part, SignPart | DensePart)]
    if seen is not None and seen.totals is not None and isinstance(parts[0], SignPart):
        return _seen_sums(parts[0], seen.totals, seen.energy, shape)
    if len(parts) < len(tensor.parts):
        parts = [DensePart(decode_all(tensor.parts, tensor.shape))]
    total = np.zeros(4)
    for matrix in range(flat.shape[0] // n):

        def sums(rows: slice, matrix: int = matrix) -> np.ndarray:
            some = flat[matrix * n + rows.start : matrix * n + rows.stop]
            kept = [rows_of(part, shape, matrix, rows) for part in parts]
            if seen is not None and isinstance(kept[0], SignPart):
                return _rowcol_sums(some, *kept[0].scales)
            return _decoded_sums(some, kept)

        total += np.sum(over_rows(sums, n, k), axis=0)
    return total


def _decoded_sums(delta: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
    kept = decode_all(parts, delta.shape)
    found = [dot(delta, delta), dot(kept, kept), dot(delta, kept)]
    kept -= delta
    return np.array([*found, dot(kept, kept)])


def _seen_sums(part: SignPart, totals: np.ndarray, energy: float, shape: tuple[int, ...]) -> np.ndarray:
    """The same of D' = s sign(D), from the sums of |D| under each scale: <D, D'> = sum s |D|, ||D'||^2 = sum s^2."""
    scale = np.asarray(part.scales[0], np.float64)
    shared = float((scale * totals).sum())
    kept = float((np.square(scale) * scale_sizes(part.scale, shape, part.block)).sum())
    return np.array([energy, kept, shared, energy - 2 * shared + kept])


def _rowcol_sums(delta: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """The same of some rows [n, K] of D with a scale for each row and column."""
    row, col = (each.astype(np.float32) for each in (row, col))
    shared = float(np.dot((np.abs(delta) @ col).astype(np.float64), row))
    kept = float(np.square(row, dtype=np.float64).sum() * np.square(col, dtype=np.float64).sum())
    energy = dot(delta, delta)
    return np.array([energy, kept, shared, energy - 2 * shared + kept])
