"""A run on a terminal: a progress bar, and for a training its figures and the curve of its loss."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass  # DROPPED
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


_TRAINING = "training"


class Live:
    """Within the block, what is told is drawn on stderr; after it the drawing is gone. A `_run_view.View`."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

        self._console = Console(file=sys.stderr, highlight=False)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TaskProgressColumn(),
        )
        self._bars = Progress(*columns, console=self._console)
        self._task: Any = None
        self._name = ""
        self._figures: Any = None
        self._live = RichLive(self, console=self._console, transient=True, refresh_per_second=8)

    def __rich__(self) -> Any:
        from rich.console import Group

        return Group(self._bars, self._figures) if self._figures is not None else self._bars

    def __enter__(self) -> Live:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.__exit__(kind, error, at)

    def notice(self, text: str) -> None:
        """A line that stays above the drawing."""
        self._console.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, done: int, total: int | None) -> None:
        """How far `name` is. While training, only a stage that follows it takes its place."""
        self._bar(name, done, total, "")
        self._figures = None

    def begin(self, done: int, steps: int) -> None:
        """A training begins; its first step takes a while."""
        self._bar(_TRAINING, done, steps, "first step")

    def training(self, training: TrainingFigures, step: int, steps: int) -> None:
        """How far the training is, and its figures."""
        from rich.table import Table
        from rich.text import Text

        self._bar(_TRAINING, step, steps, f"{step}/{steps}")
        pairs = training.figures()
        table = Table.grid(padding=(0, 3))
        table.add_row(*(Text(label, style="dim") for label, _ in pairs))
        table.add_row(*(Text(value) for _, value in pairs))
        width = max(10, min(60, self._console.width - 4))
        whole = Table.grid(padding=(0, 2))
        whole.add_row("", table)
        whole.add_row("", Text(training.curve(width), style="cyan"))
        self._figures = whole

    def _bar(self, name: str, done: int, total: int | None, count: str) -> None:
        if name != self._name:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task, self._name = self._bars.add_task(name, total=total, count=count), name
        self._bars.update(self._task, completed=done, total=total, count=count)
