"""What a run will need before anything is allocated, what this machine has, and what a process has used."""

from .estimate import Batch, MemoryEstimate, ModelShape, TrainedArrays, estimate
from .limits import bounded_cache, machine_limit, peak_memory_bytes

__all__ = [
    "Batch",
    "MemoryEstimate",
    "ModelShape",
    "TrainedArrays",
    "bounded_cache",
    "estimate",
    "machine_limit",
    "peak_memory_bytes",
]
