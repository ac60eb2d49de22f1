"""y[m,n] = y_base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * (col[s,k] * x[m,k]), with s = slots[m].

The semantics of every kernel, written with MLX's own operations; the other backends are tested against this one.

    x       [..., K]                f32, f16 or bf16
    packed  [S, N, ceil(K/32)]      u32, bit i of word j is column 32j+i, 1 for +1; pad bits are never read as weights
    row     [S, N]                  or None (1)
    col     [S, K]                  or None (1)
    block   [S, N, ceil(K/B)]       or None (1); B in {32, 64, 128, 256}
    slots   [...]                   integers, one per row of x, or None (every row uses slot 0)
    y_base  [..., N]                or None (0)
    y       [..., N]                y_base's dtype (x's without one)

A slot id below 0 or at least S leaves the row at y_base. Sums are in f32 and rounded once, at the end. Differentiable
in x, y_base, row, col and block; pure, so `mx.compile` may trace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import mlx.core as mx
import numpy as np

from .operands import SignOperand

BLOCKS = (32, 64, 128, 256)
_GROUPS = (128, 64, 32)


@cache
def _byte_signs(dtype: mx.Dtype) -> mx.array:
    """[256, 8] signs of every byte, LSB first. Built from data, so that a traced call never caches a tracer."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return mx.array((bits * 2 - 1).tolist(), dtype=dtype)


def unpack_signs(packed: mx.array, k: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """packed u32 [..., ceil(k/32)] -> signs [..., k] of +-1. One look-up per byte: 4 times faster than shifting."""
    signs = mx.take(_byte_signs(dtype), mx.view(packed, mx.uint8), axis=0)
    return signs.reshape(*packed.shape[:-1], -1)[..., :k]


def block_size(k: int, blocks: int) -> int:
    """The B with ceil(k / B) == blocks. Where two fit (one block spans the row) they mean the same."""
    for size in BLOCKS:
        if -(-k // size) == blocks:
            return size
    raise ValueError(f"no block size of {BLOCKS} cuts {k} columns into {blocks} blocks")


def expand_blocks(block: mx.array, k: int) -> mx.array:
    """block [..., ceil(k/B)] -> [..., k], each value repeated over its columns."""
    return mx.repeat(block, block_size(k, block.shape[-1]), axis=-1)[..., :k]


def sign_dense(
    packed: mx.array, k: int, row: mx.array | None, col: mx.array | None, block: mx.array | None
) -> mx.array:
    """delta[s,n,k] = row[s,n] * sign[s,n,k] * block[s,n,k//B] * col[s,k], f32 [S, N, K]."""
    delta = unpack_signs(packed, k)
    if block is not None:
        size = block_size(k, block.shape[-1])
        if k % size == 0:
            blocked = delta.reshape(*block.shape, size) * block[..., None]
            delta = blocked.reshape(delta.shape)
        else:
            delta = delta * expand_blocks(block, k)
    if row is not None:
        delta = delta * row[..., None]
    if col is not None:
        delta = delta * col[..., None, :]
    return delta


def _affine(packed: mx.array, k: int, block: mx.array | None) -> tuple[mx.array, mx.array, int]:
    """Scales, biases and group size that make MLX's 1-bit affine weight scale*bit + bias equal to +-block."""
    padded = packed.shape[-1] * 32
    size = padded if block is None else block_size(k, block.shape[-1])
    group = next(g for g in _GROUPS if padded % g == 0 and size % g == 0)
    if block is None:
        half = mx.ones((*packed.shape[:-1], padded // group))
    else:
        half = mx.repeat(block.astype(mx.float32), size // group, axis=-1)[..., : padded // group]
    return 2 * half, -half, group


def quantized(x: mx.array, packed: mx.array, block: mx.array | None, slots: mx.array | None, k: int) -> mx.array:
    """The inner sum as MLX's 1-bit quantized product: x f32 [M, K], slots [M] in range or None -> f32 [M, N]."""
    padding = packed.shape[-1] * 32 - k
    if padding:
        x = mx.pad(x, [(0, 0), (0, padding)])
    scales, biases, group = _affine(packed, k, block)
    if slots is None:
        return mx.quantized_matmul(x, packed[0], scales[0], biases[0], transpose=True, group_size=group, bits=1)
    y = mx.gather_qmm(x[:, None], packed, scales, biases, rhs_indices=slots, transpose=True, group_size=group, bits=1)
    return y[:, 0]


def unpacked(x: mx.array, packed: mx.array, block: mx.array | None, slots: mx.array | None, k: int) -> mx.array:
    """The inner sum as unpack + matmul: same arguments as `quantized`.

    With fewer rows than slots only the rows' own slots are unpacked.
    """
    if slots is None:
        return x @ sign_dense(packed[0], k, None, None, None if block is None else block[0]).T
    if x.shape[0] < packed.shape[0]:
        weight = sign_dense(packed[slots], k, None, None, None if block is None else block[slots])
        return (x[:, None] @ weight.swapaxes(-1, -2))[:, 0]
    weight = sign_dense(packed, k, None, None, block)
    return mx.gather_mm(x[:, None], weight.swapaxes(-1, -2), rhs_indices=slots)[:, 0]


def sign_matmul(
    x: mx.array,
    packed: mx.array,
    *,
    row: mx.array | None = None,
    col: mx.array | None = None,
    block: mx.array | None = None,
    slots: mx.array | None = None,
    y_base: mx.array | None = None,
    unpack: bool = False,
) -> mx.array:
    """The module's equation. `unpack` chooses the way, never the result: unpack + matmul, or MLX's 1-bit product."""
    k, n = x.shape[-1], packed.shape[1]
    lead = x.shape[:-1]
    out_dtype = x.dtype if y_base is None else y_base.dtype
    if x.size == 0 or n == 0:
        return mx.zeros((*lead, n), dtype=out_dtype) if y_base is None else y_base

    rows = x.reshape(-1, k).astype(mx.float32)
    ids = valid = None
    if slots is not None:
        flat = slots.reshape(-1).astype(mx.int32)
        valid = (flat >= 0) & (flat < packed.shape[0])
        ids = mx.where(valid, flat, 0)
    if col is not None:
        rows = rows * (col[0] if ids is None else col[ids])
    y = (unpacked if unpack else quantized)(rows, packed, block, ids, k)
    if row is not None:
        y = y * (row[0] if ids is None else row[ids])
    if valid is not None:
        y = mx.where(valid[:, None], y, 0.0)
    y = y.reshape(*lead, n)
    if y_base is not None:
        y = y_base.astype(mx.float32) + y
    return y.astype(out_dtype)


def launch(
    x: mx.array,
    signs: Sequence[SignOperand],
    y_bases: Sequence[mx.array | None],
    slots: mx.array | None,
    unpack: bool = True,
) -> list[mx.array]:
    """The equation for several projections of one x: `operands.Launch` in MLX's operations."""
    return [
        sign_matmul(x, s.packed, row=s.row, col=s.col, block=s.block, slots=slots, y_base=y, unpack=unpack)
        for s, y in zip(signs, y_bases, strict=True)
    ]


def launch_quantized(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    """`launch` through MLX's 1-bit quantized product, which CUDA lacks."""
    return launch(x, signs, y_bases, slots, unpack=False)
