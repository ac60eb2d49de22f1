"""The machine behind a measurement: hardware name, memory, load, matrix product speed, versions and date."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from .. import blas
from ..fsio import Json
from ..kernels.dispatch import backend

_GPU_WORKING_SET_BYTES = 256 << 20
_CPU_CACHE_BYTES = 32 << 20


def describe() -> Json:
    """The part of a document of measurements that says where and when."""
    return {
        "machine": {
            "name": device_name(),
            "backend": backend(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_bytes": memory_bytes(),
            "load": os.getloadavg()[0],
            "system": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
        },
        "versions": {
            **{name: version(name) for name in ("zen-mlx", "mlx", "mlx-lm")},
            "python": platform.python_version(),
            "blas": " ".join(filter(None, (blas.status().name, blas.status().version))),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name() -> str:
    """The GPU's name, or the CPU's, where MLX computes."""
    return str(mx.device_info().get("device_name") or platform.processor() or platform.machine())


def memory_bytes() -> int:
    """The memory of the device that MLX computes on."""
    info = mx.device_info()
    found = info.get("memory_size") or info.get("total_memory")
    return int(found) if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def working_set_bytes() -> int:
    """Bytes that no cache of this machine holds: what the distinct operands of one evaluation add up to at least."""
    return 2 * _last_cache_bytes() if backend() == "cpu" else _GPU_WORKING_SET_BYTES


def _last_cache_bytes() -> int:
    """The largest cache that Linux names, 32 MB where it names none."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    named = [int(text[:-1]) << 10 for text in (file.read_text().strip() for file in sizes) if text.endswith("K")]
    return max(named, default=_CPU_CACHE_BYTES)


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
