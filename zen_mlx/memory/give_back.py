"""Freed memory goes back to the system, where the C library keeps it: glibc holds what lies between blocks in use."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None with another C library."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found


def give_back() -> None:
    """Empty MLX's cache and return every free page; takes tens of milliseconds, so it is for pauses."""
    import mlx.core as mx

    mx.clear_cache()
    trim = _trim()
    if trim is not None:
        trim(0)
