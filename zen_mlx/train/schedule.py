"""What changes over a run: the learning rate and lambda, the weight of the 1-bit delta.

rate(step)   = peak * linear warm-up * cosine from 1 to FLOOR
lambda(step) = 0 for the first quarter, then a line to 1 at three quarters, then 1      (whitepaper, 2.4)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOOR = 0.1  # of the peak rate, where the cosine ends: one step after the last
WARMUP_SHARE = 10  # warm-up is at most one tenth of the run


@dataclass(frozen=True)
class Schedule:
    """steps: length of the run; peak: highest learning rate; warmup_steps: asked for, before the cap."""

    steps: int
    peak: float
    warmup_steps: int
    straight_through: bool

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
        """lambda of `step`: 0 full precision, 1 pure 1-bit. The last step is always pure 1-bit."""
        if not self.straight_through:
            return 0.0
        if step >= self.steps - 1:
            return 1.0
        return min(1.0, max(0.0, (step / self.steps - 0.25) / 0.5))
