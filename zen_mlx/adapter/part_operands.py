"""A stored part -> the MLX arrays that the kernels read, in [slots, ...] form."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from ..codec import parts as codec
from ..codec.factor import FactorGroup as StoredGroup
from ..codec.factor import FactorPart
from ..codec.factor import FactorSide as StoredSide
from ..codec.pack import pack_codes, pack_signs, unpack_codes, unpack_signs
from ..errors import TargetError
from ..kernels.dispatch import (
    Codes,
    DenseOperand,
    FactorGroupOperand,
    FactorOperand,
    FactorSideOperand,
    Operand,
    SignOperand,
    Values,
)

_GROUPS = (128, 64, 32)


def slot_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[.., N, K] as [slots, N, K]: leading axes are slots, a vector is one slot of one row."""
    n, k = (1, *shape)[-2:]
    return math.prod(shape[:-2]), n, k


def operands(part: codec.Part, shape: tuple[int, ...]) -> Operand:
    """What the kernels add for `part` of a parameter of `shape`. TargetError: rows, which no kernel computes."""
    if isinstance(part, codec.SignPart):
        return _sign(part, shape)
    if isinstance(part, codec.DensePart):
        return DenseOperand(mx.array(part.values.reshape(slot_shape(shape))))
    if isinstance(part, FactorPart):
        return _factor(part, shape)
    raise TargetError("no kernel computes a rows part", field="kind", expected="sign, factor or dense")


def _f32(array: np.ndarray, *shape: int) -> mx.array:
    return mx.array(np.asarray(array, dtype=np.float32).reshape(shape))


def _sign(part: codec.SignPart, shape: tuple[int, ...]) -> SignOperand:
    s, n, k = slot_shape(shape)
    row = col = block = None
    if part.scale == "tensor":
        row = _f32(np.repeat(part.scales[0].reshape(s, 1), n, axis=1), s, n)
    elif part.scale == "row":
        row = _f32(part.scales[0], s, n)
    elif part.scale == "col":
        col = _f32(part.scales[0], s, k)
    elif part.scale == "rowcol":
        row, col = _f32(part.scales[0], s, n), _f32(part.scales[1], s, k)
    elif part.scale == "block":
        block = _f32(part.scales[0], s, n, -1)
    else:
        raise TargetError(
            "unknown kind of scale", field="scale", expected="tensor, row, col, rowcol, block", found=part.scale
        )
    return SignOperand(mx.array(part.bits.reshape(s, n, -1)), row, col, block)


def _factor(part: FactorPart, shape: tuple[int, ...]) -> FactorOperand:
    s, n, k = slot_shape(shape)
    return FactorOperand(
        tuple(_group(group, s, n, k) for group in part.groups),
        None if part.u is None else _f32(part.u, s, n),
        None if part.v is None else _f32(part.v, s, k),
    )


def _group(group: StoredGroup, s: int, n: int, k: int) -> FactorGroupOperand:
    """The columns' steps and l become one scale; the signs of a 1-bit U are transposed, for it is a matrix of N rows."""
    found = [array for array in (group.scales, group.left.steps, group.right.steps) if array is not None]
    scale = None
    if found:
        scale = _f32(np.prod([array.astype(np.float32).reshape(s, -1) for array in found], axis=0), s, group.rank)
    if group.bits == 1:
        left = unpack_signs(group.left.data.reshape(s, group.rank, -1), n).swapaxes(-1, -2)
        signs = SignOperand(mx.array(pack_signs(left)))
        return FactorGroupOperand(SignOperand(mx.array(group.right.data.reshape(s, group.rank, -1))), signs, scale)
    return FactorGroupOperand(_side(group.right, group.bits, s, k), _side(group.left, group.bits, s, n), scale)


def _side(side: StoredSide, bits: int, s: int, n: int) -> FactorSideOperand:
    rank = side.data.shape[-2]
    if bits >= 16:
        return Values(mx.array(side.data.reshape(s, rank, n)))
    data, padded = side.data.reshape(s, rank, -1), -(-n // 32) * 32
    if padded != n:
        codes = np.zeros((s, rank, padded), dtype=np.uint8)
        codes[..., :n] = unpack_codes(data, n, bits)
        data = pack_codes(codes, bits)
    group = next(size for size in _GROUPS if padded % size == 0)
    ones = mx.ones((s, rank, padded // group))
    return Codes(mx.array(data), ones, ones * (-(2**bits - 1) / 2))
