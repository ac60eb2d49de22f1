"""Sign training: latent deltas under the straight-through estimator (STE), and the sign parts that store them.

    y = x (W + Q(d))^T + b,   Q(d) = (1 - lambda) d + lambda s(d) sign(d),   dQ/dd taken as 1

`d` f32 is the only trained array; W is frozen. The scale s(d) is recomputed from the latents at every step, and stored
as the last step left it:

    row x col:  s[n, k] = row[n] * col[k],  row[n] = mean_k |d[n, k]|,  col[k] = mean_n |d[n, k]| / mean |d|
    block:      s[n, k] = mean of |d[n, .]| over the block of `block_size` columns that holds k

With P planes s sign(d) becomes a sum of P of them, each of what the ones before it leave over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..codec.arrays import narrowed
from ..codec.pack import pack_signs
from ..codec.parts import SignPart
from ..config import BitDeltaConfig
from ..encode.rate_allocation import sign_parts
from ..format.spec import DeltaTensor
from .trainable import QuantizationRamp, TrainableLayer


def row_col_scales(latent: mx.array) -> tuple[mx.array, mx.array]:
    """(row [.., N], col [.., K]) with row[n] * col[k] the marginal fit of |latent| [.., N, K]; zero where all is zero."""
    size = mx.abs(latent)
    row = size.mean(axis=-1)
    mean = row.mean(axis=-1, keepdims=True)
    col = size.mean(axis=-2) / mx.maximum(mean, 1e-30)
    return row, col


def block_scales(latent: mx.array, block: int) -> mx.array:
    """[.., N, ceil(K / block)]: mean |latent| over each block of columns, the last one short."""
    *lead, columns = latent.shape
    blocks = -(-columns // block)
    size = mx.pad(mx.abs(latent), [(0, 0)] * len(lead) + [(0, blocks * block - columns)])
    counts = mx.minimum(columns - block * mx.arange(blocks), block)
    return size.reshape(*lead, blocks, block).sum(axis=-1) / counts


def scales(latent: mx.array, block: int | None) -> mx.array:
    """s(d), broadcast to the latent's shape: row x col, or block scales when `block` is given."""
    if block is None:
        row, col = row_col_scales(latent)
        return row[..., :, None] * col[..., None, :]
    return mx.repeat(block_scales(latent, block), block, axis=-1)[..., : latent.shape[-1]]


@mx.compile
def straight_through(latent: mx.array, rest: mx.array, scale: mx.array, share: mx.array) -> mx.array:
    """Q(d) = d + lambda (s sign(r) - r) with dQ/dd = 1; r, what the last plane codes, and its scale are constants."""
    return latent + share * (mx.where(rest >= 0, scale, -scale) - rest)


@mx.compile
def _left_over(rest: mx.array, scale: mx.array) -> mx.array:
    return rest - mx.where(rest >= 0, scale, -scale)


def rests(latent: mx.array, block: int | None, planes: int) -> Iterator[mx.array]:
    """What each of `planes` planes takes the signs and scales of: the latent, then what is left over."""
    rest = latent
    for plane in range(planes):
        yield rest
        if plane + 1 < planes:
            rest = _left_over(rest, scales(rest, block))


class _Latent(TrainableLayer):
    """What both kinds of latent layer share: the latent and Q."""

    def __init__(
        self, base: nn.Module, shape: tuple[int, ...], block: int | None, share: QuantizationRamp, planes: int = 1
    ) -> None:
        super().__init__(base, share)
        self._block, self._planes = block, planes
        self.latent = mx.zeros(shape, mx.float32)

    def _delta(self) -> mx.array:
        share = self._share.value
        if share == 0.0:
            return self.latent
        *_, rest = rests(mx.stop_gradient(self.latent), self._block, self._planes)
        return straight_through(self.latent, rest, scales(rest, self._block), mx.array(share))


class LatentLinear(_Latent):
    """A frozen `nn.Linear` or `nn.QuantizedLinear` plus Q(d).

    An f32 weight takes Q(d) before the product (one matmul); any other would round the delta away, so its delta has a
    product of its own.
    """

    def __call__(self, x: mx.array) -> mx.array:
        base = self._base[0]
        if type(base) is nn.Linear and base.weight.dtype == mx.float32:
            y = x @ (base.weight + self._delta()).T
            return y + base.bias if "bias" in base else y
        return base(x) + x @ self._delta().astype(x.dtype).T


class LatentSwitchLinear(_Latent):
    """A frozen `SwitchLinear` or `QuantizedSwitchLinear` plus Q(d) [E, N, K], one scale set an expert."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        delta = mx.swapaxes(self._delta().astype(x.dtype), -1, -2)
        y = mx.gather_mm(x, delta, rhs_indices=indices, sorted_indices=sorted_indices)
        return self._base[0](x, indices, sorted_indices) + y


def latent_layer(
    base: nn.Module, shape: tuple[int, ...], block: int | None, share: QuantizationRamp, planes: int = 1
) -> _Latent:
    """The latent layer for a target layer of logical weight `shape`."""
    kind = LatentSwitchLinear if isinstance(base, (SwitchLinear, QuantizedSwitchLinear)) else LatentLinear
    return kind(base, shape, block, share, planes)


def encode_latents(
    latents: Mapping[str, mx.array],
    config: BitDeltaConfig,
    planes: int = 1,
    moment_of: Callable[[str], np.ndarray] | None = None,
) -> dict[str, DeltaTensor]:
    """Every latent [.., N, K] that is not all zero as `planes` sign parts; f16 scales (f32 where f16 cannot hold them).

    A straight-through run stores the scales of `scales`, so the file is what the last step computed; a
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
    stored = narrowed(tuple(np.array(scale) for scale in scales), "f16")
    return SignPart("block" if block else "rowcol", block, pack_signs(np.array(rest)), stored)


def _balanced(row: mx.array, col: mx.array) -> tuple[mx.array, mx.array]:
    """The same product with equal means: f16 keeps fewer digits of numbers below 6e-5."""
    factor = mx.sqrt(row.mean(axis=-1, keepdims=True) / mx.maximum(col.mean(axis=-1, keepdims=True), 1e-30))
    factor = mx.maximum(factor, 1e-30)
    return row / factor, col * factor


def _sparse(part: SignPart, threshold: float) -> SignPart:
    first, *rest = part.scales
    mean = first.astype(np.float32).mean(axis=-1, keepdims=True)
    if part.scale == "block":
        mean = first.astype(np.float32).mean(axis=(-2, -1), keepdims=True)
    kept = np.where(first < threshold * mean, np.zeros_like(first), first)
    return SignPart(part.scale, part.block, part.bits, (kept, *rest))
