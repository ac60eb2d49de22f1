"""d launch / d (x, scales, y_base) = d reference / d (the same): MLX differentiates a custom kernel through its twin.

A custom kernel has no derivative of its own in MLX. The gradients are those of `reference`, whatever computed y.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx

from .operands import Launch, SignOperand

_Shape = tuple[int, tuple[bool, ...], bool, bool]
_Operands = tuple[mx.array, list[SignOperand], list[mx.array | None], mx.array | None]


def _flatten(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> tuple[_Shape, list[mx.array]]:
    """The operands as one list of arrays, and what it takes to read it: planes, present fields, y_bases?, slots?"""
    present = tuple(field is not None for field in signs[0])
    has_base = y_bases[0] is not None
    arrays = [x, *(field for sign in signs for field in sign if field is not None)]
    arrays += [y for y in y_bases if y is not None] + ([] if slots is None else [slots])
    return (len(signs), present, has_base, slots is not None), arrays


def _unflatten(shape: _Shape, arrays: Sequence[mx.array]) -> _Operands:
    planes, present, has_base, has_slots = shape
    rest = iter(arrays)
    x = next(rest)
    signs = [SignOperand(*(next(rest) if given else None for given in present)) for _ in range(planes)]  # type: ignore[arg-type]  # `packed` is given
    y_bases = [next(rest) if has_base else None for _ in range(planes)]
    return x, signs, y_bases, next(rest) if has_slots else None


@cache
def _function(launch: Launch, twin: Launch, shape: _Shape) -> Any:
    @mx.custom_function
    def function(*arrays: mx.array) -> tuple[mx.array, ...]:
        return tuple(launch(*_unflatten(shape, arrays)))

    @function.vjp
    def vjp(
        primals: Sequence[mx.array], cotangents: mx.array | list[mx.array], outputs: object
    ) -> tuple[mx.array, ...]:
        floating = [i for i, array in enumerate(primals) if mx.issubdtype(array.dtype, mx.floating)]

        def of_floating(*values: mx.array) -> list[mx.array]:
            arrays = list(primals)
            for i, value in zip(floating, values, strict=True):
                arrays[i] = value
            return list(twin(*_unflatten(shape, arrays)))

        given = list(cotangents) if isinstance(cotangents, (list, tuple)) else [cotangents]
        _, gradients = mx.vjp(of_floating, [primals[i] for i in floating], given)
        result = [mx.zeros_like(array) for array in primals]
        for i, gradient in zip(floating, gradients, strict=True):
            result[i] = gradient
        return tuple(result)

    return function


def differentiable(launch: Launch, twin: Launch) -> Launch:
    """`launch` with the gradients of `twin`, which is made of MLX's operations."""

    def launch_with_gradient(
        x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
    ) -> Sequence[mx.array]:
        shape, arrays = _flatten(x, signs, y_bases, slots)
        ys: Sequence[mx.array] = _function(launch, twin, shape)(*arrays)
        return ys

    return launch_with_gradient
