"""How much memory this process has used at most."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes() -> int:
    """Largest of the process's resident set and MLX's own count (on a GPU, memory the resident set may not show)."""
    import mlx.core as mx

    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, int(mx.get_peak_memory()))
