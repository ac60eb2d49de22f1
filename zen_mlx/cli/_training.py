"""The figures and the curve of a training, from its events."""

from __future__ import annotations

import collections
import itertools
import math
from typing import TYPE_CHECKING

from . import _view

if TYPE_CHECKING:
    from ..events import StepReport

_SMOOTH = 0.8  # share of the old value in the loss that is shown
_RECENT = 20  # steps that speed and time left are taken from
_SPARKS = "▁▂▃▄▅▆▇█"


class TrainingFigures:
    """Running figures of a training, from its events."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self.held_out: float | None = None
        self.losses: list[float] = []
        self._recent: collections.deque[tuple[int, float]] = collections.deque(maxlen=_RECENT)
        self._step: StepReport | None = None

    def step(self, event: StepReport) -> None:
        """Take note of what a step did."""
        self.loss = event.loss if self.loss is None else _SMOOTH * self.loss + (1 - _SMOOTH) * event.loss
        self.losses.append(self.loss)
        self._recent.append((event.tokens, event.seconds))
        self._step = event

    def figures(self) -> list[tuple[str, str]]:
        """(label, value) of what is known now."""
        event = self._step
        if event is None:
            return []
        tokens, seconds = (sum(column) for column in zip(*self._recent, strict=True))
        pairs = [("loss", f"{self.loss:.3f}")]
        if self.held_out is not None:
            pairs.append(("held-out", f"{self.held_out:.3f}"))
        pairs.append(("lambda", f"{event.quantized_share:.2f}"))
        if seconds:
            pairs.append(("speed", f"{tokens / seconds:.0f} tokens/s"))
        if event.peak_bytes:
            pairs.append(("memory", f"{_view.size(event.memory_bytes)} (peak {_view.size(event.peak_bytes)})"))
        left = (event.steps - event.step) * seconds / len(self._recent)
        if event.step < event.steps:
            pairs.append(("left", _view.duration(max(1.0, left))))
        return pairs

    def line(self) -> str:
        """The figures in one line."""
        return "  ".join(f"{label} {value}" for label, value in self.figures())

    def curve(self, width: int = 60) -> str:
        """The smoothed losses as a row of small bars, the newest `width` parts of the run."""
        count = len(self.losses)
        if count < 2:
            return ""
        wide = min(width, count)
        edges = [index * count // wide for index in range(wide + 1)]
        means = [sum(self.losses[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
        low, high = min(means), max(means)
        if not (math.isfinite(low) and high > low):
            return _SPARKS[0] * wide
        return "".join(_SPARKS[round((mean - low) / (high - low) * (len(_SPARKS) - 1))] for mean in means)
