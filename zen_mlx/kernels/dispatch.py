"""The one door to the kernels: y = y_base + sum over parts of part(x), on the device that MLX uses.

A sign part is the equation of `reference` with its arrays in [slots, ...] form, a dense part x @ values[slot]^T, a
factor part two thin products. All are tuples of arrays only, so that a layer holding them can be seen by `mx.compile`
as state. Which kernel computes a product is `choice`'s; every way in here is differentiable in x, y_base and the scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..errors import TargetError
from .choice import backend, merge_kernel
from .factor import factor_dense, factor_matmul
from .launch import run
from .operands import (
    Codes,
    DenseOperand,
    FactorGroupOperand,
    FactorOperand,
    FactorSideOperand,
    Operand,
    SignOperand,
    Values,
)
from .reference import sign_dense, unpack_signs

__all__ = [
    "Codes",
    "DenseOperand",
    "FactorGroupOperand",
    "FactorOperand",
    "FactorSideOperand",
    "Operand",
    "SignOperand",
    "Values",
    "add_parts",
    "add_parts_together",
    "backend",
    "dense_delta",
    "merge",
    "run",
    "sign_dense",
    "sign_matmul",
    "unpack_signs",
]

MOST_TOGETHER = 3


def _check(x: mx.array, packed: mx.array, **arrays: mx.array | None) -> None:
    k, (s, n, found) = x.shape[-1], packed.shape
    expected = {"row": (s, n), "col": (s, k), "slots": x.shape[:-1], "y_base": (*x.shape[:-1], n)}
    if found != -(-k // 32):
        raise TargetError("the signs' shape does not match x", field="packed", expected=-(-k // 32), found=found)
    for name, array in arrays.items():
        if array is not None and array.shape != expected[name]:
            raise TargetError("wrong shape of a kernel operand", field=name, expected=expected[name], found=array.shape)


def sign_matmul(
    x: mx.array,
    packed: mx.array,
    *,
    row: mx.array | None = None,
    col: mx.array | None = None,
    block: mx.array | None = None,
    slots: mx.array | None = None,
    y_base: mx.array | None = None,
) -> mx.array:
    """y = y_base + row * (sign * block) @ (col * x); shapes and dtypes as in `reference`. TargetError: bad shape."""
    _check(x, packed, row=row, col=col, slots=slots, y_base=y_base)
    return run(None, x, [SignOperand(packed, row, col, block)], [y_base], slots)[0]


def _dense_matmul(x: mx.array, values: mx.array, slots: mx.array | None, y_base: mx.array) -> mx.array:
    """y = y_base + x @ values[slot]^T, sums in f32; a slot id out of range adds nothing."""
    if x.size == 0:
        return y_base
    rows, weight = x.reshape(-1, x.shape[-1]).astype(mx.float32), values.astype(mx.float32)
    if slots is None:
        y = rows @ weight[0].T
    else:
        flat = slots.reshape(-1).astype(mx.int32)
        valid = (flat >= 0) & (flat < values.shape[0])
        y = mx.gather_mm(rows[:, None], weight.swapaxes(-1, -2), rhs_indices=mx.where(valid, flat, 0))[:, 0]
        y = mx.where(valid[:, None], y, 0.0)
    return (y_base.astype(mx.float32) + y.reshape(y_base.shape)).astype(y_base.dtype)


def add_parts(x: mx.array, parts: Sequence[Operand], y_base: mx.array, slots: mx.array | None = None) -> mx.array:
    """y = y_base + sum over parts of part(x) for x [..., K], slots [...] or None; y in y_base's dtype, rounded once."""
    y = y_base.astype(mx.float32) if len(parts) > 1 else y_base
    for part in parts:
        if isinstance(part, DenseOperand):
            y = _dense_matmul(x, part.values, slots, y)
        elif isinstance(part, FactorOperand):
            y = factor_matmul(x, part, y, slots)
        else:
            y = sign_matmul(x, part.packed, row=part.row, col=part.col, block=part.block, slots=slots, y_base=y)
    return y.astype(y_base.dtype)


def _form(parts: Sequence[Operand]) -> tuple[object, ...] | None:
    """What planes need in common to share a launch; None: these parts are not one plane."""
    if len(parts) != 1 or not isinstance(parts[0], SignOperand):
        return None
    packed, row, col, block = parts[0]
    slots, _, words = packed.shape
    return slots, words, row is None, col is None, None if block is None else block.shape[-1]


def add_parts_together(
    x: mx.array, parts: Sequence[Sequence[Operand]], y_bases: Sequence[mx.array], slots: mx.array | None = None
) -> list[mx.array]:
    """[add_parts(x, p, y, slots) for p, y in zip(parts, y_bases)], in one launch where each is one plane of one form."""
    forms = {_form(p) for p in parts}
    if len(forms) > 1 or None in forms or not 1 < len(parts) <= MOST_TOGETHER:
        return [add_parts(x, p, y, slots) if p else y for p, y in zip(parts, y_bases, strict=True)]
    planes = [p[0] for p in parts if isinstance(p[0], SignOperand)]
    for plane, y in zip(planes, y_bases, strict=True):
        _check(x, plane.packed, row=plane.row, col=plane.col, slots=slots, y_base=y)
    return run(None, x, planes, y_bases, slots)


def dense_delta(parts: Sequence[Operand], n: int, k: int) -> mx.array:
    """delta[s,n,k] = sum of the parts in stored order, f32 [S, N, K]."""
    total: mx.array | None = None
    for part in parts:
        if isinstance(part, DenseOperand):
            delta = part.values.astype(mx.float32)
        elif isinstance(part, FactorOperand):
            delta = factor_dense(part, n, k)
        else:
            delta = sign_dense(part.packed, k, part.row, part.col, part.block)
        total = delta if total is None else total + delta
    if total is None:
        raise TargetError("a delta has no parts", field="parts", expected="at least one", found=0)
    return total


def merge(base: mx.array, parts: Sequence[Operand]) -> mx.array:
    """base + sum of the parts for base [S, N, K]: sums in f32, rounded once to base's dtype."""
    if len(parts) == 1 and isinstance(parts[0], SignOperand) and base.size:
        kernel = merge_kernel(base, parts[0])
        if kernel is not None:
            return kernel(base, parts[0])
    return (base.astype(mx.float32) + dense_delta(parts, *base.shape[-2:])).astype(base.dtype)
