"""What long work tells its caller: numbers and sentences, never text of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """What one step did. loss: mean nats per supervised token of its batch; tokens: supervised ones.

    memory_bytes, peak_bytes: what MLX holds after the step, and at most held since the process began.
    """

    step: int
    steps: int
    loss: float
    rate: float
    quantized_share: float
    tokens: int
    seconds: float
    memory_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Evaluated:
    """Held-out loss after `step`, with the arrays as they would be stored. agreement: as in `data.loss.Loss`.

    counts: whether early stopping looks at it; best: whether it is the lowest of those so far.
    """

    step: int
    loss: float
    agreement: float
    tokens: int
    seconds: float
    counts: bool
    best: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written after `step`."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Noted:
    """A sentence that the user should read."""

    text: str


Progress = Callable[[str, int, int | None], None]


def report(progress: Progress | None, description: str, done: int, total: int | None) -> None:
    """Call `progress` if there is one."""
    if progress is not None:
        progress(description, done, total)
