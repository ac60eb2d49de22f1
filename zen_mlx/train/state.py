"""Everything that the next step depends on: what a checkpoint holds and a resumed run starts from.

The rows of a step and MLX's random state in it depend on the seed and its number alone, rate and lambda on its number:
`step` is the cursor of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx

from .optimizer import AdamState


@dataclass
class Progress:
    """The numbers beside the arrays.

    first: loss of the first step, which is the base's; recent: losses of the last steps, oldest first.
    best_loss, best_step: lowest held-out loss that counts so far, and after which step; waited: evaluations since then.
    """

    first: float | None = None
    recent: list[float] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = 0
    waited: int = 0


@dataclass
class RunState:
    """Trained arrays, moments with the number of steps done, numbers, and the arrays of the best step."""

    latents: dict[str, mx.array]
    adam: AdamState = field(default_factory=AdamState)
    progress: Progress = field(default_factory=Progress)
    best: dict[str, mx.array] | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.adam.step
