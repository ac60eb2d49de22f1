"""delta = sum_i weight_i * delta_i, exactly or brought back to one sign plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..codec.pack import words
from ..codec.parts import MAX_PARTS, DensePart, Part, SignPart, decode_all, encode_sign
from ..errors import BaseMismatchError, ConfigError
from ..format.spec import DeltaTensor, Profile


def merge_exact(profiles: Sequence[Profile], weights: Sequence[float], info: dict[str, Any]) -> Profile:
    """Each tensor's parts side by side, scales times weight in f32; a negative weight flips the signs.

    `ConfigError` for weights that do not fit, or more than 16 parts in a tensor; `BaseMismatchError` when the profiles
    belong to different bases.
    """
    if len(profiles) < 1 or len(profiles) != len(weights):
        raise ConfigError("one weight for each profile", field="weights", expected=len(profiles), found=len(weights))
    for weight in weights:
        if not math.isfinite(weight):
            raise ConfigError("a weight must be a finite number", field="weights", found=weight)
    first = profiles[0]
    for other in profiles[1:]:
        for field in ("weights", "tokenizer"):
            if other.base.get(field) != first.base.get(field):
                raise BaseMismatchError(
                    f"{first.info.get('name')} and {other.info.get('name')} belong to different bases",
                    field=field,
                    expected=first.base.get(field),
                    found=other.base.get(field),
                )
    tensors: dict[str, DeltaTensor] = {}
    for profile, weight in zip(profiles, weights, strict=True):
        if weight == 0:
            continue
        for name, tensor in profile.tensors.items():
            parts = tuple(_scaled(part, weight, tensor.shape[-1]) for part in tensor.parts)
            if name in tensors:
                if tensors[name].shape != tensor.shape:
                    raise BaseMismatchError(
                        "shapes differ", field=name, expected=tensors[name].shape, found=tensor.shape
                    )
                parts = tensors[name].parts + parts
            if len(parts) > MAX_PARTS:
                raise ConfigError(
                    "too many parts for an exact merge",
                    field=name,
                    expected=MAX_PARTS,
                    found=len(parts),
                    hint="use --requantize",
                )
            tensors[name] = DeltaTensor(tensor.shape, parts)
    return Profile(
        info=dict(info),
        base=dict(first.base),
        metrics={},
        target_count=first.target_count,
        model_count=first.model_count,
        tensors=tensors,
    )


def requantize(profile: Profile, scale: str = "rowcol", planes: int = 1) -> tuple[Profile, float]:
    """(profile with `planes` sign planes a matrix, relative error ||D' - D|| / ||D|| over all tensors)."""
    lost = energy = 0.0
    tensors = {}
    for name, tensor in profile.tensors.items():
        delta = decode_all(tensor.parts, tensor.shape)
        parts: tuple[Part, ...]
        if len(tensor.shape) < 2 or all(isinstance(part, DensePart) for part in tensor.parts):
            parts = (DensePart(delta.astype(np.float16)),)
        else:
            parts = tuple(encode_sign(delta, scale, None, planes))
        tensors[name] = DeltaTensor(tensor.shape, parts)
        energy += float(np.square(delta, dtype=np.float64).sum())
        lost += float(np.square(decode_all(parts, tensor.shape) - delta, dtype=np.float64).sum())
    out = Profile(
        info=dict(profile.info),
        base=dict(profile.base),
        metrics=dict(profile.metrics),
        target_count=profile.target_count,
        model_count=profile.model_count,
        tensors=tensors,
    )
    return out, math.sqrt(lost / energy) if energy else 0.0


def _scaled(part: Part, weight: float, columns: int) -> Part:
    if isinstance(part, DensePart):
        return DensePart(_times(part.values, weight))
    first, *rest = (scale.astype(np.float32) for scale in part.scales)
    bits = part.bits
    if weight < 0:
        mask = np.full(words(columns), 0xFFFFFFFF, np.uint32)
        if columns % 32:
            mask[-1] = (1 << columns % 32) - 1
        bits = bits ^ mask
    return SignPart(part.scale, part.block, bits, (_times(first, abs(weight)), *rest))


def _times(values: np.ndarray, weight: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        product: np.ndarray = (values * np.float64(weight)).astype(np.float32)
    if not np.isfinite(product).all():
        raise ConfigError("a weight takes the delta out of float32's range", field="weights", found=weight)
    return product
