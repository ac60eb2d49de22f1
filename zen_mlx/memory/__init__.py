"""What a run will need before anything is allocated, what this machine has, and what a process has used."""

from .machine import bounded_cache, machine_limit, peak_memory_bytes
from .plan import Batch, ModelShape, Plan, Training, plan

__all__ = ["Batch", "ModelShape", "Plan", "Training", "bounded_cache", "machine_limit", "peak_memory_bytes", "plan"]
