"""D = tuned - base, stored as signs and scales: a fine-tuned checkpoint becomes the tensors of a profile.

Tensor by tensor: one base tensor, one tuned tensor and their difference are in memory at a time, whatever the
checkpoint's size. Knows nothing about files: it is handed two functions from a name to an f32 array (4-bit weights
already dequantized).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..codec.parts import DensePart, Part, decode_all, encode_sign
from ..codec.rows import encode_rows
from ..errors import ModelFormatError, TargetError
from ..format.spec import DeltaTensor
from .targets import arrays, is_quantized

# Under this a float16 keeps fewer than 8 significant bits.
_F16_SMALLEST = 2.0**-17

Reader = Callable[[str], np.ndarray]
Progress = Callable[[int, int, str], None]


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


def encode(
    names: Iterable[str],
    base_of: Reader,
    tuned_of: Reader,
    *,
    targets: Collection[str],
    scale: str = "rowcol",
    block: int | None = None,
    planes: int = 1,
    dtype: str = "f16",
    growing: Collection[str] = (),
    progress: Progress | None = None,
) -> tuple[dict[str, DeltaTensor], list[LayerStats]]:
    """Encode every changed tensor of `names`: those in `targets` as `planes` sign planes, the others as they are.

    A matrix outside the targets of which less than half the rows changed is stored by rows. One in `growing` (embedding,
    head) may have more rows in the fine-tune, and then is stored by rows too. Readers return arrays of any float dtype,
    else equal in shape; they are called once per name, in order. An unchanged tensor is neither stored nor listed.
    `progress(done, total, name)` follows each tensor. TargetError where the shapes differ, ModelFormatError where a
    difference is not finite.
    """
    names = list(names)
    tensors: dict[str, DeltaTensor] = {}
    stats: list[LayerStats] = []
    for done, name in enumerate(names, start=1):
        base, tuned = base_of(name), tuned_of(name)
        grown = name in growing and base.ndim == 2 and len(tuned) > len(base)
        if grown:
            base = np.concatenate([base, np.zeros((len(tuned) - len(base), base.shape[1]), base.dtype)])
        delta = _difference(name, base, tuned)
        del base, tuned
        if delta is not None:
            parts: list[Part] = []
            if name in targets:
                parts.extend(encode_sign(delta, scale, block, planes, dtype))
            elif grown or has_few_rows(delta):
                parts.append(encode_rows(delta, dtype))
            else:
                parts.append(_dense(delta, dtype))
            tensors[name] = DeltaTensor(delta.shape, tuple(parts))
            stats.append(measure(name, delta, tensors[name]))
        if progress is not None:
            progress(done, len(names), name)
    return tensors, stats


def lazy_reader(model: nn.Module) -> tuple[list[str], Reader]:
    """(parameter names, reader) of a lazily loaded model: logical f32 tensors, quantized weights dequantized.

    A tensor is read from disk when it is asked for and can be read once: nothing is kept.
    """
    waiting = {name: (array, _packing(module, key)) for name, module, key, array in arrays(model)}
    names = sorted(waiting)

    def read(name: str) -> np.ndarray:
        value, packing = waiting.pop(name)
        if packing:
            value = mx.dequantize(value, **packing)
        return np.atleast_1d(np.array(value.astype(mx.float32)))

    return names, read


def _packing(module: nn.Module, key: str) -> dict[str, Any]:
    """The other arguments of `mx.dequantize` for `module[key]`, {} where it is not quantized."""
    if key != "weight" or not is_quantized(module):
        return {}
    given = {each: module.get(each) for each in ("scales", "biases", "global_scale")}
    kept = {each: value for each, value in given.items() if value is not None}
    return {**kept, "group_size": module.group_size, "bits": module.bits, "mode": getattr(module, "mode", "affine")}


def measure(name: str, delta: np.ndarray, tensor: DeltaTensor) -> LayerStats:
    """Compare a non-zero delta with what `tensor` decodes to."""
    kept = decode_all(tensor.parts, tensor.shape)
    energy, kept_energy, shared = _dot(delta, delta), _dot(kept, kept), _dot(delta, kept)
    kept -= delta
    lost = _dot(kept, kept) / energy
    return LayerStats(
        name=name,
        shape=tensor.shape,
        delta_rms=(energy / delta.size) ** 0.5,
        relative_error=lost**0.5,
        energy_kept=1.0 - lost,
        cosine=shared / (energy * kept_energy) ** 0.5 if kept_energy else 0.0,
        nbytes=tensor.nbytes,
    )


def _difference(name: str, base: np.ndarray, tuned: np.ndarray) -> np.ndarray | None:
    """tuned - base in f32, None where nothing changed."""
    if base.shape != tuned.shape:
        raise TargetError(
            "the fine-tuned tensor has another shape than the base's",
            field=name,
            expected=tuple(base.shape),
            found=tuple(tuned.shape),
        )
    delta = np.subtract(tuned, base, dtype=np.float32)
    peak = max(float(delta.max(initial=0.0)), -float(delta.min(initial=0.0)))
    if not np.isfinite(peak):
        raise ModelFormatError(
            "a weight is not a finite number", field=name, expected="finite numbers", found=str(peak)
        )
    return delta if peak else None


def has_few_rows(delta: np.ndarray) -> bool:
    """Whether `delta` is a matrix of which less than half the rows are not zero."""
    return delta.ndim == 2 and 2 * int(np.count_nonzero(delta.any(axis=1))) < len(delta)


def _dense(delta: np.ndarray, dtype: str) -> DensePart:
    """The delta as it is: f16 where asked for, unless the largest value is beyond its range or below its precision."""
    narrow = dtype == "f16" and _F16_SMALLEST <= float(np.abs(delta).max()) <= float(np.finfo(np.float16).max)
    return DensePart(delta.astype(np.float16 if narrow else np.float32))


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products: BLAS in f32 over rows of the last axis, the rows' sums in f64."""
    k = a.shape[-1]
    rows = np.einsum("ij,ij->i", a.reshape(-1, k), b.reshape(-1, k))
    return float(rows.sum(dtype=np.float64))
