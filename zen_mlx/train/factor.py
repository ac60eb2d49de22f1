"""Low-rank factors under the straight-through estimator.

    y = W x + b + sum over groups of Q(U)^T (Q(V) x),   Q(c) = (1 - lambda) c + lambda q(c),   dQ/dc taken as 1
    q(c) = (clip(floor(c / step), -2^(bits-1), 2^(bits-1) - 1) + 1/2) * step,   step = STEP[bits] * rms(c)

c is a column of U or V (a row of memory: U [g, N], V [g, K], f32); W is frozen. Gradients and moments are those of the
factors: nothing of a full weight's size is made. V starts as a LoRA's A, normal with variance 1/K, and U at 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..codec.factor import FactorGroup, FactorPart, FactorSide
from ..codec.pack import pack_codes
from ..format.spec import DeltaTensor
from .trainable import QuantizationRamp, TrainableLayer, array_name

# Steps of least squares for a normal column of unit rms.
STEP = {2: 0.9957, 4: 0.3352, 8: 0.0308}
GAIN = 20.0
"""Of scales that are trained as logarithms, so that one rate suits them and the factors."""
Groups = Sequence[tuple[int, int]]


def step_of(columns: mx.array, bits: int, ratio: mx.array | None = None) -> mx.array:
    """columns [.., g, n] -> their steps [.., g, 1]: `ratio` [.., g, 1] times their rms, STEP[bits] where it is None."""
    return (STEP[bits] if ratio is None else ratio) * mx.sqrt(mx.square(columns).mean(axis=-1, keepdims=True))


def codes_of(columns: mx.array, step: mx.array, bits: int) -> mx.array:
    """floor(c / step) within its range, f32 integers from -2^(bits-1) to 2^(bits-1) - 1."""
    half = 2 ** (bits - 1)
    return mx.clip(mx.floor(columns / mx.maximum(step, 1e-30)), -half, half - 1)


def straight_through(columns: mx.array, bits: int, share: float, ratio: mx.array | None = None) -> mx.array:
    """Q(c) with dQ/dc = 1."""
    if share == 0.0:
        return columns
    fixed = mx.stop_gradient(columns)
    step = step_of(fixed, bits, ratio)
    return columns + share * ((codes_of(fixed, step, bits) + 0.5) * step - fixed)


def group_bits(keys: Iterable[str]) -> list[int]:
    """The bits of the groups among these names of arrays, most first."""
    return sorted((int(key.removeprefix("left")) for key in keys if key.startswith("left")), reverse=True)


class _Factors(TrainableLayer):
    """left4 [E.., g, N] and right4 [E.., g, K] of the columns in 4 bits, left2 and right2 of those in 2 bits, and so on.

    scaled: also u [E.., N] and v [E.., K], trained as logarithms from 0: the delta is diag(e^(G u)) U^T V diag(e^(G v)).
    """

    def __init__(
        self,
        base: nn.Module,
        shape: tuple[int, ...],
        groups: Groups,
        share: QuantizationRamp,
        key: mx.array,
        scaled: bool = False,
    ) -> None:
        super().__init__(base, share)
        *lead, n, k = shape
        for bits, rank in groups:
            key, now = mx.random.split(key)
            self[f"right{bits}"] = mx.random.normal((*lead, rank, k), key=now) * k**-0.5
            self[f"left{bits}"] = mx.zeros((*lead, rank, n))
        if scaled:
            self["u"], self["v"] = mx.zeros((*lead, n)), mx.zeros((*lead, k))

    def _sides(self, dtype: mx.Dtype) -> list[tuple[mx.array, mx.array]]:
        """(Q(V) diag(v), Q(U) diag(u)) of each group."""

        def side(name: str, bits: int, scale: str) -> mx.array:
            columns = straight_through(self[name], bits, self._share.value)
            if scale in self:
                columns = columns * mx.exp(GAIN * self[scale])[..., None, :]
            return columns.astype(dtype)

        groups = group_bits(self)
        return [(side(f"right{bits}", bits, "v"), side(f"left{bits}", bits, "u")) for bits in groups]


class FactorLinear(_Factors):
    """A frozen `nn.Linear` or `nn.QuantizedLinear` plus its factors."""

    def __call__(self, x: mx.array) -> mx.array:
        y = self._base[0](x)
        for right, left in self._sides(x.dtype):
            y = y + (x @ right.T) @ left
        return y


class FactorSwitchLinear(_Factors):
    """A frozen `SwitchLinear` or `QuantizedSwitchLinear` plus the factors of each expert."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y = self._base[0](x, indices, sorted_indices)
        for right, left in self._sides(x.dtype):
            h = mx.gather_mm(x, right.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
            y = y + mx.gather_mm(h, left, rhs_indices=indices, sorted_indices=sorted_indices)
        return y


def factor_layer(
    name: str,
    base: nn.Module,
    shape: tuple[int, ...],
    groups: Groups,
    share: QuantizationRamp,
    seed: int,
    scaled: bool = False,
) -> _Factors:
    """The layer for parameter `name`; its start depends on the seed and the name alone."""
    kind = FactorSwitchLinear if isinstance(base, (SwitchLinear, QuantizedSwitchLinear)) else FactorLinear
    return kind(base, shape, groups, share, mx.random.key(zlib.crc32(f"{seed}/{name}".encode())), scaled)


def encode_factors(arrays: Mapping[str, mx.array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, DeltaTensor]:
    """The trained factors as one factor part a parameter: the codes that the last step computed with.

    A column of U and the one of V are scaled against each other, so that their steps are equal and float16 holds both.
    """
    out = {}
    for name in shapes:
        groups = group_bits(key.removeprefix(f"{name}/") for key in arrays if key.startswith(f"{name}/"))
        stored = tuple(
            stored_group(arrays[array_name(name, f"left{bits}")], arrays[array_name(name, f"right{bits}")], bits)
            for bits in groups
        )
        if any(np.any(group.left.steps) for group in stored):
            logs = (arrays.get(array_name(name, side)) for side in ("u", "v"))
            u, v = (None if log is None else np.array(mx.exp(GAIN * log)).astype(np.float16) for log in logs)
            out[name] = DeltaTensor(tuple(shapes[name]), (FactorPart(u, v, stored),))
    return out


def stored_group(
    left: mx.array, right: mx.array, bits: int, ratios: Sequence[mx.array | None] = (None, None)
) -> FactorGroup:
    """The group of trained columns left [.., g, N] and right [.., g, K]."""
    steps = [step_of(side, bits, ratio) for side, ratio in zip((left, right), ratios, strict=True)]
    codes = [np.array(codes_of(side, step, bits)) for side, step in zip((left, right), steps, strict=True)]
    both = np.sqrt(np.array(steps[0] * steps[1], dtype=np.float32)[..., 0]).astype(np.float16)
    sides = [FactorSide(both, pack_codes((c + 2 ** (bits - 1)).astype(np.uint8), bits)) for c in codes]
    return FactorGroup(bits, None, sides[0], sides[1])
