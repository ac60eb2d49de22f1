"""Memory: the estimate of a run before anything is allocated, the limits of this machine, the use of this process."""

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
