"""Merge profiles: delta = sum_i weight_i * delta_i, exactly or brought back to one sign plane."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..codec.factor import FactorGroup, FactorPart, FactorSide
from ..codec.pack import flip_codes
from ..codec.parts import MAX_PARTS, DensePart, Part, RowsPart, SignPart, decode_all, encode_rows, encode_sign
from ..errors import BaseMismatchError, ConfigError
from ..format.spec import IDENTITY, DeltaTensor, Profile, now, profile_info
from ..fsio import Json
from .store import ProfileStore


def merge_profiles(
    store: ProfileStore, names: Sequence[str], weights: Sequence[float] | None, name: str | None, exact: bool
) -> Profile:
    """sum_i weights[i] * the profile names[i] (None: equal weights that sum to 1), to be called `name`.

    Not `exact`: one row x col sign plane, with `metrics["merge_error"]`. Raises `ConfigError` without names, and as
    `merge_exact`.
    """
    if not names:
        raise ConfigError("there is nothing to merge", field="names", expected="at least one profile")
    shares = list(weights) if weights is not None else [1 / len(names)] * len(names)
    profiles = [store.load(each) for each in names]
    info = profile_info(name or "+".join(names), now(), "merge")
    info |= {"tool": profiles[0].info.get("tool", ""), "merged_from": list(names), "merged_weights": shares}
    merged = merge_exact(profiles, shares, info)
    if not exact:
        merged, error = requantize(merged)
        merged.metrics["merge_error"] = error
    return merged


def merge_exact(profiles: Sequence[Profile], weights: Sequence[float], info: Json) -> Profile:
    """Each tensor's parts side by side, scales times weight in f32; a negative weight flips the signs.

    Parts of rows become one, their values summed where two have the same row.
    `ConfigError` for weights that do not fit, or more than 16 parts in a tensor; `BaseMismatchError` when the profiles
    belong to different bases.
    """
    if len(profiles) < 1 or len(profiles) != len(weights):
        raise ConfigError("each profile needs one weight", field="weights", expected=len(profiles), found=len(weights))
    for weight in weights:
        if not math.isfinite(weight):
            raise ConfigError("a weight must be a finite number", field="weights", found=weight)
    first = profiles[0]
    for other in profiles[1:]:
        for field in ("weights", "tokenizer", *IDENTITY):
            if field in IDENTITY and None in (other.base.get(field), first.base.get(field)):
                continue
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
            parts = tuple(_scaled(part, weight, tensor.shape) for part in tensor.parts)
            if name in tensors:
                if tensors[name].shape != tensor.shape:
                    raise BaseMismatchError(
                        "the shapes of a tensor differ", field=name, expected=tensors[name].shape, found=tensor.shape
                    )
                parts = _one_of_rows(tensors[name].parts + parts)
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
    """(profile with `planes` sign planes a matrix, relative error ||D' - D|| / ||D|| over all tensors).

    What is nothing but values or rows is only rounded to float16.
    """
    lost = energy = 0.0
    tensors = {}
    for name, tensor in profile.tensors.items():
        delta = decode_all(tensor.parts, tensor.shape)
        parts: tuple[Part, ...]
        if len(tensor.shape) < 2 or all(isinstance(part, DensePart) for part in tensor.parts):
            parts = (DensePart(delta.astype(np.float16)),)
        elif all(isinstance(part, RowsPart) for part in tensor.parts) and delta.any():
            parts = (encode_rows(delta),)
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


def _scaled(part: Part, weight: float, shape: tuple[int, ...]) -> Part:
    if isinstance(part, DensePart):
        return DensePart(_times(part.values, weight))
    if isinstance(part, RowsPart):
        return RowsPart(part.rows, _times(part.values, weight))
    if isinstance(part, FactorPart):
        return _scaled_factor(part, weight, shape)
    first, *rest = (scale.astype(np.float32) for scale in part.scales)
    bits = flip_codes(part.bits, shape[-1]) if weight < 0 else part.bits
    return SignPart(part.scale, part.block, bits, (_times(first, abs(weight)), *rest))


def _scaled_factor(part: FactorPart, weight: float, shape: tuple[int, ...]) -> FactorPart:
    """|weight| goes into u, else v, else l; into a constant vector on the shorter side where a group has no l."""
    n, k = shape[-2:]
    u, v = (None if array is None else array.astype(np.float32) for array in (part.u, part.v))
    scales = [None if group.scales is None else group.scales.astype(np.float32) for group in part.groups]
    if u is None and v is None and any(array is None for array in scales):
        if n <= k:
            u = np.ones(shape[:-1], np.float32)
        else:
            v = np.ones((*shape[:-2], k), np.float32)
    if u is not None:
        u = _times(u, abs(weight))
    elif v is not None:
        v = _times(v, abs(weight))
    else:
        scales = [None if array is None else _times(array, abs(weight)) for array in scales]
    lefts = [group.left if weight > 0 else _negated(group.left, n * group.bits) for group in part.groups]
    groups = (
        FactorGroup(group.bits, array, left, group.right)
        for group, array, left in zip(part.groups, scales, lefts, strict=True)
    )
    return FactorPart(u, v, tuple(groups))


def _negated(side: FactorSide, used_bits: int) -> FactorSide:
    codes = side.data.dtype == np.uint32
    return FactorSide(side.steps, flip_codes(side.data, used_bits) if codes else -side.data)


def _one_of_rows(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """`parts` with at most one of rows, at the first one's place."""
    found = [part for part in parts if isinstance(part, RowsPart)]
    if len(found) < 2:
        return parts
    rows, places = np.unique(np.concatenate([part.rows for part in found]), return_inverse=True)
    values = np.zeros((len(rows), found[0].values.shape[-1]), np.float32)
    start = 0
    for part in found:
        with np.errstate(over="ignore"):
            values[places[start : start + len(part.rows)]] += part.values
        start += len(part.rows)
    if not np.isfinite(values).all():
        raise ConfigError(
            "the sum exceeds the range of float32", field="weights", expected="finite rows", found="infinity"
        )
    at = next(index for index, part in enumerate(parts) if isinstance(part, RowsPart))
    others = [part for part in parts if not isinstance(part, RowsPart)]
    return (*others[:at], RowsPart(rows, values), *others[at:])


def _times(values: np.ndarray, weight: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        product: np.ndarray = (values * np.float64(weight)).astype(np.float32)
    if not np.isfinite(product).all():
        raise ConfigError("a weight takes the delta beyond the range of float32", field="weights", found=weight)
    return product
