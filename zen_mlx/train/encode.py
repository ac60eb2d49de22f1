"""Latents -> the sign parts of a `.bitdelta`, with the scales that the last step trained under."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from ..codec.pack import pack_signs
from ..codec.parts import SignPart
from ..config import BitDeltaConfig
from ..delta.rate import sign_parts
from ..format.spec import DeltaTensor
from .ste import block_scales, rests, row_col_scales

F16_LEAST, F16_MOST = 2.0**-17, 65504.0  # largest scales outside this range lose their digits, or overflow, in f16


def encode_latents(
    latents: Mapping[str, mx.array],
    config: BitDeltaConfig,
    planes: int = 1,
    moment_of: Callable[[str], np.ndarray] | None = None,
) -> dict[str, DeltaTensor]:
    """Every latent [.., N, K] that is not all zero as `planes` sign parts; f16 scales (f32 where f16 cannot hold them).

    A straight-through run stores the scales of `ste.scales`, so the file is what the last step computed; a
    full-precision run fits them in closed form, weighed by `moment_of(name)`, C = E[x x^T], if given.
    A row (or block) whose scale is below
    `sparsity_penalty` times its layer's mean scale gets scale 0: a sign has no zero.
    """
    block = None if config.use_per_channel_scale else config.block_size
    out = {}
    for name, latent in latents.items():
        if not mx.any(latent != 0).item():
            continue
        if config.straight_through:
            parts = [_plane(rest, block) for rest in rests(latent, block, planes)]
        else:
            moment = moment_of(name) if moment_of is not None else None
            scale = "block" if block else "rowcol"
            parts = list(sign_parts(np.array(latent), planes, moment, scale, block))
        stored = (_sparse(part, config.sparsity_penalty) for part in parts)
        out[name] = DeltaTensor(tuple(latent.shape), tuple(stored))
    return out


def _plane(rest: mx.array, block: int | None) -> SignPart:
    """The signs of `rest`, under the scales that the last step trained with."""
    scales = (block_scales(rest, block),) if block else _balanced(*row_col_scales(rest))
    stored = _stored(*(np.array(scale) for scale in scales))
    return SignPart("block" if block else "rowcol", block, pack_signs(np.array(rest)), stored)


def _balanced(row: mx.array, col: mx.array) -> tuple[mx.array, mx.array]:
    """The same product with equal means: f16 keeps fewer digits of numbers below 6e-5."""
    factor = mx.sqrt(row.mean(axis=-1, keepdims=True) / mx.maximum(col.mean(axis=-1, keepdims=True), 1e-30))
    factor = mx.maximum(factor, 1e-30)
    return row / factor, col * factor


def _stored(*scales: np.ndarray) -> tuple[np.ndarray, ...]:
    """f16 where it keeps the scales' digits, else f32."""
    tops = [float(scale.max()) for scale in scales]
    fits = all(top == 0 or F16_LEAST <= top <= F16_MOST for top in tops)
    return tuple(scale.astype(np.float16 if fits else np.float32) for scale in scales)


def _sparse(part: SignPart, threshold: float) -> SignPart:
    first, *rest = part.scales
    mean = first.astype(np.float32).mean(axis=-1, keepdims=True)
    if part.scale == "block":
        mean = first.astype(np.float32).mean(axis=(-2, -1), keepdims=True)
    kept = np.where(first < threshold * mean, np.zeros_like(first), first)
    return SignPart(part.scale, part.block, part.bits, (kept, *rest))
