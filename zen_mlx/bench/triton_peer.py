"""y = x @ (2 * bits - 1), f16, in Triton: BitDelta's published kernel as a contender. Imported only where triton is.

Its way: packed i32 [K/32, N], word j of a column holding rows 32j to 32j + 31, LSB first; every element of a
[BLOCK_K, BLOCK_N] tile loads the word it lies in (32 times the same one), shifts its bit out, makes +-1 of it, and the
tile goes through `tl.dot`. No scale, no y_base, no slots.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import triton
import triton.language as tl

from .clock import Contender
from .options import Shape

_TILES = [
    triton.Config({"BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
    for n, k, warps, stages in ((32, 64, 2, 4), (64, 64, 4, 4), (128, 64, 4, 3), (64, 128, 4, 3), (32, 128, 4, 3))
]


@triton.autotune(configs=_TILES, key=["M", "N", "K"])
@triton.jit
def _signs(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own types
    X, P, Y, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):  # x [M, K], packed [K/32, N], y [M, N], row-major
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(X + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        inside = (k[:, None] < K) & (n[None, :] < N)
        word = tl.load(P + (k[:, None] // 32) * N + n[None, :], mask=inside, other=0)
        bit = (word >> (k[:, None] % 32)) & 1
        total = tl.dot(x, (2 * bit - 1).to(x.dtype), total)
    tl.store(Y + m[:, None] * N + n[None, :], total.to(tl.float16), mask=(m[:, None] < M) & (n[None, :] < N))


def sign_matmul(x: Any, packed: Any) -> Any:
    """x f16 [M, K], packed i32 [K/32, N] -> y f16 [M, N], torch tensors on one device."""
    (m, k), n = x.shape, packed.shape[1]
    y = torch.empty((m, n), dtype=torch.float16, device=x.device)
    block_m = 16 if m <= 16 else 32 if m <= 32 else 64
    _signs[lambda tile: (triton.cdiv(m, block_m), triton.cdiv(n, tile["BLOCK_N"]))](
        x, packed, y, m, n, k, BLOCK_M=block_m
    )
    return y


def contender(shape: Shape, rows: int, distinct: int) -> Contender:
    """All calls of a turn as one CUDA graph, so that Triton's Python launcher does not count."""
    made = torch.Generator("cuda").manual_seed(0)
    x = torch.randn((rows, shape.k), dtype=torch.float16, device="cuda", generator=made)
    words = [(shape.k // 32, n) for n in shape.outputs]
    layers = [
        [torch.randint(-(2**31), 2**31 - 1, size, dtype=torch.int32, device="cuda", generator=made) for size in words]
        for _ in range(distinct)
    ]
    graphs: dict[int, Any] = {}

    def seconds(count: int) -> float:
        if count not in graphs:
            for packed in layers[0]:
                sign_matmul(x, packed)  # tunes: not allowed while a graph is recorded
            torch.cuda.synchronize()
            graphs[count] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[count]):
                for layer in layers[:count]:
                    for packed in layer:
                        sign_matmul(x, packed)
            graphs[count].replay()
        torch.cuda.synchronize()
        start = time.perf_counter()
        graphs[count].replay()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return Contender("Triton", distinct, seconds)
