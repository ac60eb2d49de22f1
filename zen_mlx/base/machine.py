"""What this machine does: the speed of the matrix product that everything else waits for."""

from __future__ import annotations

import time

_SIZE = 1024
_SECONDS = 0.2


def matmul_gflops() -> float:
    """2 n^3 / seconds / 1e9 of an f32 n x n product through MLX, n = 1024; the best of a fifth of a second."""
    import mlx.core as mx

    a = mx.random.normal((_SIZE, _SIZE), key=mx.random.key(0))
    mx.eval(a, a @ a)
    best = float("inf")
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - start)
    return 2 * _SIZE**3 / best / 1e9
