"""Memory that this machine can give, and memory that this process has used."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

CACHE_BYTES = 2**30
"""Most that MLX keeps of freed arrays during a run; its own default on a Mac is all the memory there is."""
_CGROUP = Path("/sys/fs/cgroup")


def peak_memory_bytes() -> int:
    """Largest of the process's resident set and MLX's own count (on a GPU, memory the resident set may not show)."""
    import mlx.core as mx

    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, int(mx.get_peak_memory()))


@contextlib.contextmanager
def bounded_cache(most_bytes: int = CACHE_BYTES) -> Iterator[None]:
    """Within the block MLX keeps at most `most_bytes` of freed arrays, or less where it kept less before."""
    import mlx.core as mx

    before = mx.set_cache_limit(most_bytes)
    if before < most_bytes:
        mx.set_cache_limit(before)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def machine_limit() -> tuple[int, str]:
    """(bytes that a run may take, what they are).

    Apple GPU: the recommended working set. NVIDIA GPU: its free memory. CPU: the memory the system calls available, less
    where a control group grants less.
    """
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.gpu:
        info = mx.device_info()
        for key, text in (
            ("max_recommended_working_set_size", "the GPU's recommended working set"),
            ("free_memory", "free memory of the GPU"),
            ("total_memory", "memory of the GPU"),
            ("memory_size", "memory of the machine"),
        ):
            if int(info.get(key, 0)) > 0:
                return int(info[key]), text
    own = _resident()
    free, text = _available() + own, "available memory"
    granted = _granted()
    if granted is not None and granted + own < free:
        return granted + own, "memory left in the control group"
    return free, text


def _resident() -> int:
    """What this process holds already and may use again."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _available() -> int:
    """MemAvailable of Linux, else all physical memory."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _granted(root: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes left in the tightest control group (version 2, else 1) around this process; None without one."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds == "":
            base, most, used = root, "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            base, most, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inside = base / place.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder == base.parent:
                break
            limit, current = _number(folder / most), _number(folder / used)
            if limit is not None and current is not None and limit < 2**60:
                left.append(max(0, limit - current + _file_cache(folder)))
    return min(left) if left else None


def _file_cache(folder: Path) -> int:
    """Bytes of files that the kernel drops when memory is short."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
