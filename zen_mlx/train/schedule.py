"""Schedules over a run: the learning rate, and lambda, the weight of the 1-bit delta.

rate(step)   = peak * linear warm-up * cosine from 1 to FLOOR
lambda(step) = 0 up to where the ramp starts, then a line to 1 at its end, then 1: from a quarter of the run to three
               quarters for signs (whitepaper, 2.4), all at once at a quarter for factors
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOOR = 0.1  # of the peak rate, where the cosine ends: one step after the last
WARMUP_SHARE = 10  # warm-up is at most one tenth of the run


@dataclass(frozen=True)
class Schedule:
    """steps: length of the run; peak: highest learning rate; warmup_steps: asked for, before the cap.

    ramp: the shares of the run between which lambda rises; None: full precision throughout.
    """

    steps: int
    peak: float
    warmup_steps: int
    ramp: tuple[float, float] | None

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up in effect."""
        return min(self.warmup_steps, self.steps // WARMUP_SHARE)

    def rate(self, step: int) -> float:
        """Learning rate of `step` (from 0)."""
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))

    def quantized_share(self, step: int) -> float:
        """lambda of `step`: 0 full precision, 1 pure. The last step of a run with a ramp is always pure."""
        if self.ramp is None:
            return 0.0
        start, stop = self.ramp
        progress = step / self.steps
        if step >= self.steps - 1 or progress >= stop:
            return 1.0
        return max(0.0, (progress - start) / (stop - start)) if stop > start else 0.0
