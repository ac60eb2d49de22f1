"""y[m,:] = y_base[m,:] + u * U^T (scale * V (v * x[m,:])): the two thin products of a low-rank part, s = slots[m].

    right   V [g, K] of a group, left U [g, N]: both lie a column of the factor to a row
    Values  f16 or f32, as a dense matmul
    Codes   2, 4 or 8 bits, as MLX's quantized matmul; the steps are in `scale`
    Sign    1 bit, as the sign product; U transposed to [N, g]

Sums are in f32 and rounded once. A slot id out of range leaves the row at y_base.
"""

from __future__ import annotations

import mlx.core as mx

from .launch import run
from .operands import Codes, FactorOperand, FactorSideOperand, SignOperand, Values
from .reference import sign_dense


def packing(side: Codes, n: int) -> tuple[int, int, int]:
    """(columns with padding, bits, group size) of codes for n columns; they follow from the arrays' shapes."""
    padded = -(-n // 32) * 32
    return padded, side.data.shape[-1] * 32 // padded, padded // side.scales.shape[-1]


def _right(x: mx.array, side: FactorSideOperand, ids: mx.array | None) -> mx.array:
    """h[m,:] = V x[m,:]: x f32 [M, K] -> [M, g]."""
    if isinstance(side, SignOperand):
        return run(None, x, [side], [None], ids)[0]
    if isinstance(side, Values):
        weight = side.values.astype(mx.float32)
        if ids is None:
            return x @ weight[0].T
        return mx.gather_mm(x[:, None], weight.swapaxes(-1, -2), rhs_indices=ids)[:, 0]
    padded, bits, group = packing(side, x.shape[-1])
    if padded > x.shape[-1]:
        x = mx.pad(x, [(0, 0), (0, padded - x.shape[-1])])
    if ids is None:
        return mx.quantized_matmul(
            x, side.data[0], side.scales[0], side.biases[0], transpose=True, group_size=group, bits=bits
        )
    return mx.gather_qmm(x[:, None], *side, rhs_indices=ids, transpose=True, group_size=group, bits=bits)[:, 0]


def _left(h: mx.array, side: FactorSideOperand, ids: mx.array | None, n: int) -> mx.array:
    """y[m,:] = U^T h[m,:]: h f32 [M, g] -> [M, N]."""
    if isinstance(side, SignOperand):
        return run(None, h, [side], [None], ids)[0]
    if isinstance(side, Values):
        weight = side.values.astype(mx.float32)
        return h @ weight[0] if ids is None else mx.gather_mm(h[:, None], weight, rhs_indices=ids)[:, 0]
    _, bits, group = packing(side, n)
    if ids is None:
        y = mx.quantized_matmul(
            h, side.data[0], side.scales[0], side.biases[0], transpose=False, group_size=group, bits=bits
        )
    else:
        y = mx.gather_qmm(h[:, None], *side, rhs_indices=ids, transpose=False, group_size=group, bits=bits)[:, 0]
    return y[:, :n]


def factor_matmul(x: mx.array, part: FactorOperand, y_base: mx.array, slots: mx.array | None) -> mx.array:
    """The module's equation for x [..., K], slots [...] or None; y in y_base's dtype."""
    if x.size == 0:
        return y_base
    n = y_base.shape[-1]
    rows = x.reshape(-1, x.shape[-1]).astype(mx.float32)
    ids = valid = None
    if slots is not None:
        flat = slots.reshape(-1).astype(mx.int32)
        valid = (flat >= 0) & (flat < part.slots)
        ids = mx.where(valid, flat, 0)
    if part.v is not None:
        rows = rows * (part.v[0] if ids is None else part.v[ids])
    total = None
    for group in part.groups:
        h = _right(rows, group.right, ids)
        if group.scale is not None:
            h = h * (group.scale[0] if ids is None else group.scale[ids])
        y = _left(h, group.left, ids, n)
        total = y if total is None else total + y
    if total is None:
        return y_base
    if part.u is not None:
        total = total * (part.u[0] if ids is None else part.u[ids])
    if valid is not None:
        total = mx.where(valid[:, None], total, 0.0)
    return (y_base.astype(mx.float32) + total.reshape(y_base.shape)).astype(y_base.dtype)


def _numbers(side: FactorSideOperand, columns: int) -> mx.array:
    """f32 [S, rows, columns] as the side lies, without its steps."""
    if isinstance(side, SignOperand):
        return sign_dense(side.packed, columns, None, None, None)
    if isinstance(side, Values):
        return side.values.astype(mx.float32)
    _, bits, group = packing(side, columns)
    return mx.dequantize(*side, group_size=group, bits=bits)[..., :columns]


def factor_dense(part: FactorOperand, n: int, k: int) -> mx.array:
    """delta[s] = diag(u) . U . diag(scale) . V^T . diag(v), f32 [S, N, K]."""
    total = mx.array(0.0)
    for group in part.groups:
        right = _numbers(group.right, k)
        if isinstance(group.left, SignOperand):
            left = _numbers(group.left, right.shape[1])
        else:
            left = _numbers(group.left, n).swapaxes(-1, -2)
        if group.scale is not None:
            left = left * group.scale[:, None]
        total = total + left @ right
    if part.u is not None:
        total = total * part.u[..., None]
    if part.v is not None:
        total = total * part.v[:, None]
    return total
