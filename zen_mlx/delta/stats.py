"""How well a change is kept by what is stored of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..codec.chunks import over_rows
from ..codec.difference import Delta
from ..codec.parts import DensePart, Part, SignPart, decode_all, rows_of
from ..codec.scales import expand_scales
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


def measure(name: str, delta: Delta, tensor: DeltaTensor, own_signs: bool = False) -> LayerStats:
    """Compare a non-zero delta with what `tensor` decodes to; own_signs: it is one plane, and its signs are the delta's."""
    energy, kept_energy, shared, lost = (float(each) for each in _sums(delta, tensor, own_signs))
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


def _sums(delta: Delta, tensor: DeltaTensor, own_signs: bool) -> np.ndarray:
    """||D||^2, ||D'||^2, <D, D'> and ||D' - D||^2; signs and plain values are looked at a few rows at a time."""
    shape = tensor.shape if len(tensor.shape) > 1 else (1, *(tensor.shape or (1,)))
    n, k = shape[-2:]
    flat = delta.reshape(-1, k)
    parts: list[SignPart | DensePart] = [part for part in tensor.parts if isinstance(part, SignPart | DensePart)]
    if len(parts) < len(tensor.parts):
        parts = [DensePart(decode_all(tensor.parts, tensor.shape))]
    total = np.zeros(4)
    for matrix in range(flat.shape[0] // n):

        def sums(rows: slice, matrix: int = matrix) -> np.ndarray:
            some = flat[matrix * n + rows.start : matrix * n + rows.stop]
            kept = [rows_of(part, shape, matrix, rows) for part in parts]
            plane = kept[0]
            return _plane_sums(some, plane) if own_signs and isinstance(plane, SignPart) else _decoded_sums(some, kept)

        total += np.sum(over_rows(sums, n, k), axis=0)
    return total


def _decoded_sums(delta: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
    kept = decode_all(parts, delta.shape)
    found = [_dot(delta, delta), _dot(kept, kept), _dot(delta, kept)]
    kept -= delta
    return np.array([*found, _dot(kept, kept)])


def _plane_sums(delta: np.ndarray, part: SignPart) -> np.ndarray:
    """The same of D' = s sign(D), without decoding it: <D, D'> = sum s |D|, ||D'||^2 = sum s^2."""
    n, k = delta.shape
    magnitude = np.abs(delta)
    if part.scale == "block":
        scale = expand_scales("block", part.scales, delta.shape, part.block)
        shared, kept = _dot(magnitude, scale), _dot(scale, scale)
    else:
        given = [np.asarray(array, np.float32) for array in part.scales]
        row = np.broadcast_to(given[0] if part.scale != "col" else np.float32(1), n)
        col = np.broadcast_to(given[-1] if part.scale in ("col", "rowcol") else np.float32(1), k)
        shared = float(np.dot((magnitude @ np.ascontiguousarray(col)).astype(np.float64), row))
        kept = float(np.square(row, dtype=np.float64).sum() * np.square(col, dtype=np.float64).sum())
    energy = _dot(delta, delta)
    return np.array([energy, kept, shared, energy - 2 * shared + kept])


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products: in f32 over rows of the last axis, the rows' sums in f64."""
    k = a.shape[-1]
    return float(np.vecdot(a.reshape(-1, k), b.reshape(-1, k)).sum(dtype=np.float64))
