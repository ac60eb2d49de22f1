"""Distillation: a stored delta whose small arrays are trained until the model agrees with its teacher.

    y = base(x) + sum over parts of part(x)
    sign      scale <- scale_0 * exp(GAIN * t), t trained from 0: every scale stays positive, no sign changes
    factor    U <- Q(U_0 diag(exp(GAIN * u))), V <- Q(V_0 diag(exp(GAIN * v))) in 2, 4 and 8 bits, straight-through
              (`factor`): the columns U_0 and V_0 trained from the stored ones on, u [N] and v [K] from 0

The other parts stay as they are. t, u and v are logarithmic, so that a step changes small and large scales by the same
share. u and v are not stored: the columns take them in. They move a row of all columns at once, as a sign's scales do.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..adapter.part_operands import operands
from ..codec.arrays import narrowed
from ..codec.factor import FactorGroup, FactorPart, FactorSide, side_values
from ..codec.parts import Part, SignPart
from ..config import BitDeltaConfig
from ..format.spec import DeltaTensor
from ..kernels.dispatch import Operand as Operand
from ..kernels.dispatch import SignOperand, add_parts, dense_delta, unpack_signs
from .factor import GAIN, STEP, stored_group, straight_through
from .schedule import Schedule
from .trainable import QuantizationRamp, TrainableLayer, array_name

_SCALES = ("row", "col", "block")
_LOGS = {"left": "u", "right": "v"}


class Student(TrainableLayer):
    """The layer for the parts of one parameter, [N, K] or [E, N, K]."""

    def __init__(
        self, base: nn.Module, shape: tuple[int, ...], parts: tuple[Part, ...], share: QuantizationRamp
    ) -> None:
        super().__init__(base, share)
        self._shape = shape
        self._signs: dict[int, SignOperand] = {}
        self._factors: dict[str, int] = {}
        self._ratios: dict[str, mx.array] = {}
        self._fixed: list[Operand] = []
        self._plain: dict[int, mx.array] = {}
        for index, part in enumerate(parts):
            if isinstance(part, SignPart):
                sign = operands(part, shape)
                assert isinstance(sign, SignOperand)
                self._signs[index] = sign
                for kind in _SCALES:
                    if (scale := getattr(sign, kind)) is not None:
                        self[f"{kind}{index}"] = mx.zeros((len(scale), 1) if part.scale == "tensor" else scale.shape)
            elif isinstance(part, FactorPart) and trains(part):
                self[f"u{index}"], self[f"v{index}"] = mx.zeros(shape[:-1]), mx.zeros((*shape[:-2], shape[-1]))
                for number, group in enumerate(part.groups):
                    key = f"{index}_{number}"
                    self._factors[key] = group.bits
                    for side, columns in _columns(group, shape).items():
                        self[f"{side}{key}"] = columns
                        self._ratios[f"{side}{key}"] = _ratio(getattr(group, side), columns)
            else:
                self._fixed.append(operands(part, shape))

    def _sign_parts(self) -> list[Operand]:
        def scaled(index: int, sign: SignOperand) -> SignOperand:
            given = {kind: getattr(sign, kind) for kind in _SCALES}
            trained = [
                None if scale is None else scale * mx.exp(GAIN * self[f"{kind}{index}"])
                for kind, scale in given.items()
            ]
            return SignOperand(sign.packed, *trained)

        return [scaled(index, sign) for index, sign in self._signs.items()] + self._fixed

    def _unpacked(self) -> list[int]:
        """The planes without block scales, whose signs then lie in `_plain` as f32 [N, K]."""
        planes = [index for index, sign in self._signs.items() if sign.block is None]
        for index in planes:
            if index not in self._plain:
                self._plain[index] = unpack_signs(self._signs[index].packed, self._shape[-1])[0]
                mx.eval(self._plain[index])
        return planes

    def _sides(self, dtype: mx.Dtype) -> list[tuple[mx.array, mx.array]]:
        return [
            (self._side("right", key, bits).astype(dtype), self._side("left", key, bits).astype(dtype))
            for key, bits in self._factors.items()
        ]

    def _side(self, side: str, key: str, bits: int) -> mx.array:
        name, index = f"{side}{key}", key.partition("_")[0]
        columns = _scaled(self[name], self[f"{_LOGS[side]}{index}"])
        return straight_through(columns, bits, self._share.value, self._ratios[name])


class StudentLinear(Student):
    """A frozen `nn.Linear` or `nn.QuantizedLinear`.

    On an f32 base, as on the CPU, the signs of a plane lie unpacked, a latent's worth of memory, instead of being unpacked
    in every forward and backward pass.
    """

    def __call__(self, x: mx.array) -> mx.array:
        y, parts = self._base[0](x), self._sign_parts()
        if x.dtype == mx.float32:
            plain = [part for part in parts if isinstance(part, SignOperand) and part.block is None]
            for index, part in zip(self._unpacked(), plain, strict=True):
                y = y + _product(x, self._plain[index], part.row, part.col)
            parts = [part for part in parts if not (isinstance(part, SignOperand) and part.block is None)]
        y = add_parts(x, parts, y) if parts else y
        for right, left in self._sides(x.dtype):
            y = y + (x @ right.T) @ left
        return y


class StudentSwitchLinear(Student):
    """A frozen `SwitchLinear` or `QuantizedSwitchLinear`; every expert has its own scales and factors."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y = self._base[0](x, indices, sorted_indices)
        if parts := self._sign_parts():
            delta = dense_delta(parts, *self._shape[-2:]).astype(x.dtype).swapaxes(-1, -2)
            y = y + mx.gather_mm(x, delta, rhs_indices=indices, sorted_indices=sorted_indices)
        for right, left in self._sides(x.dtype):
            h = mx.gather_mm(x, right.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
            y = y + mx.gather_mm(h, left, rhs_indices=indices, sorted_indices=sorted_indices)
        return y


def _product(x: mx.array, signs: mx.array, row: mx.array | None, col: mx.array | None) -> mx.array:
    """row * (signs @ (col * x)), for scales of one slot."""
    y = (x if col is None else x * col[0]) @ signs.T
    return y if row is None else y * row[0]


def trains(part: FactorPart) -> bool:
    """Whether the factors of `part` are trained: in 2, 4 or 8 bits, without u and v."""
    return part.u is None and part.v is None and all(group.bits in STEP for group in part.groups)


class Distilled:
    """Turns stored tensors into better ones of the same layouts; targets that have none stay as the base has them."""

    reference_rate = 6e-3
    keeps_optimizer_state = True

    def __init__(self, tensors: Mapping[str, DeltaTensor], config: BitDeltaConfig) -> None:
        self._tensors, self._config = tensors, config

    def schedule(self, steps: int) -> Schedule:
        """Quantized from the first step on."""
        rate = self.reference_rate * self._config.learning_rate_scale
        return Schedule(steps, rate, self._config.warmup_steps, (0.0, 0.0))

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: QuantizationRamp) -> TrainableLayer:
        """The layer that is trained in the place of `base`."""
        parts = self._tensors[name].parts if name in self._tensors else ()
        kind = StudentSwitchLinear if isinstance(base, (SwitchLinear, QuantizedSwitchLinear)) else StudentLinear
        return kind(base, shape, parts, share)

    def begin_quantization(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """The layouts are given."""
        return dict(arrays)

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        """Every tensor in its own layout; those that were not trained as they were."""

        def part_of(name: str, index: int, part: Part) -> Part:
            def array(key: str) -> mx.array:
                return arrays[array_name(name, key)]

            if isinstance(part, SignPart):
                kinds = {"tensor": ("row",), "rowcol": ("row", "col")}.get(part.scale, (part.scale,))
                if any(array_name(name, f"{kind}{index}") not in arrays for kind in kinds):
                    return part
                factors = [array(f"{kind}{index}") for kind in kinds]
                return SignPart(part.scale, part.block, part.bits, _rescaled(part, factors))
            if isinstance(part, FactorPart) and array_name(name, f"left{index}_0") in arrays:
                groups = []
                for i, group in enumerate(part.groups):
                    left, right = (
                        _scaled(array(f"{side}{index}_{i}"), array(f"{log}{index}")) for side, log in _LOGS.items()
                    )
                    first = _columns(group, self._tensors[name].shape)
                    ratios = [_ratio(getattr(group, side), columns) for side, columns in first.items()]
                    groups.append(stored_group(left, right, group.bits, ratios))
                return FactorPart(None, None, tuple(groups))
            return part

        return {
            name: DeltaTensor(tensor.shape, tuple(part_of(name, *each) for each in enumerate(tensor.parts)))
            for name, tensor in self._tensors.items()
        }


def _columns(group: FactorGroup, shape: tuple[int, ...]) -> dict[str, mx.array]:
    """left [.., g, N] and right [.., g, K] as they are decoded."""
    sides = {"left": (group.left, shape[-2]), "right": (group.right, shape[-1])}
    return {name: mx.array(side_values(side, group.bits, size)) for name, (side, size) in sides.items()}


def _scaled(columns: mx.array, logs: mx.array) -> mx.array:
    """columns [.., g, n] times exp(GAIN * logs [.., n])."""
    return columns * mx.exp(GAIN * logs)[..., None, :]


def _ratio(side: FactorSide, columns: mx.array) -> mx.array:
    """step / rms of the stored columns: with it, quantizing them again changes nothing."""
    steps = mx.array(np.asarray(side.steps, dtype=np.float32))[..., None]
    return steps / mx.maximum(mx.sqrt(mx.square(columns).mean(axis=-1, keepdims=True)), 1e-30)


def _rescaled(part: SignPart, logs: list[mx.array]) -> tuple[np.ndarray, ...]:
    """scale * exp(GAIN * t) in the part's own dtype where that holds it."""
    out = []
    for scale, log in zip(part.scales, logs, strict=True):
        factor = np.exp(GAIN * np.array(log, dtype=np.float32))
        out.append(scale.astype(np.float32) * factor.reshape(scale.shape))
    return narrowed(tuple(out), part.dtype)
