"""The display of a run while it lasts, and its summary when it is done. Shared by train, compress, eval and demo."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ..events import Evaluated, Event, ImportReport, Noted, OnEvent, Prepared, Stage, StepReport, ignore
from . import _view
from ._live import TrainingFigures

if TYPE_CHECKING:
    from ..recipes.common import CreateReport

_STEPS = "steps"


@contextlib.contextmanager
def run_events(quiet: bool) -> Iterator[OnEvent]:
    """Yield the function that takes a run's events: a live view on a terminal; elsewhere a line now and then, or nothing
    if quiet."""
    if sys.stderr.isatty():
        from ._live import Live

        with Live() as live:
            yield _teller(live)
    elif quiet:
        yield ignore
    else:
        yield _teller(_Lines())


class View(Protocol):
    """Where a run is shown."""

    def notice(self, text: str) -> None: ...

    def stage(self, name: str, done: int, total: int | None) -> None: ...

    def begin(self, done: int, steps: int) -> None: ...

    def training(self, training: TrainingFigures, step: int, steps: int) -> None: ...


def _teller(view: View) -> OnEvent:
    """The function that shows a run's events in `view`."""
    from .data import notices

    training = TrainingFigures()

    def tell(event: Event) -> None:
        if isinstance(event, ImportReport):
            for text in notices(event):
                view.notice(text)
        elif isinstance(event, Prepared):
            view.notice(_prepared(event))
            view.begin(event.resumed_from, event.steps)
        elif isinstance(event, Stage):
            view.stage(event.name, event.done, event.total or None)
        elif isinstance(event, StepReport):
            training.step(event)
            view.training(training, event.step, event.steps)
        elif isinstance(event, Evaluated):
            training.held_out = event.loss
        elif isinstance(event, Noted):
            view.notice(event.text)

    return tell


class _Lines(_view.Lines):
    """Plain lines on stderr: the first and last step, and one in a while."""

    notice = staticmethod(_view.notice)
    stage = _view.Lines.__call__

    def begin(self, done: int, steps: int) -> None:
        self.description = ""

    def training(self, training: TrainingFigures, step: int, steps: int) -> None:
        if self.due(_STEPS, step == steps):
            _view.notice(f"step {step}/{steps}  {training.line()}")


def summary(report: CreateReport, held_out_rows: int | None) -> list[tuple[str, str]]:
    """(label, value) lines of a finished profile."""
    metrics = report.metrics
    base, profile, reference = (metrics.get(f"{name}_loss") for name in ("base", "profile", "reference"))
    lines = []
    if base is not None and profile is not None:
        rows = f" on {held_out_rows} held-out rows" if held_out_rows else ""
        lines.append(("loss", f"{base:.3f} -> {profile:.3f}{rows}"))
        lines.append(("perplexity", f"{math.exp(min(base, 709)):.1f} -> {math.exp(min(profile, 709)):.1f}"))
    before, after = metrics.get("base_agreement"), metrics.get("profile_agreement")
    if before is not None and after is not None:
        lines.append(
            ("token agreement", f"{100 * before:.1f} % -> {100 * after:.1f} % of the tokens are the first choice")
        )
    if reference is not None:
        lines.append(("fine-tune's loss", f"{reference:.3f}"))
    if metrics.get("retention") is not None:
        lines.append(("gain kept", f"{metrics['retention']:.1f} % of the fine-tune's"))
    lines += [
        ("file", f"{_view.size(report.file_bytes)}  {report.path}"),
        ("bits per weight", f"{report.bits_per_weight:.3f}"),
        ("smaller by", f"{report.ratio_fp32:.1f}x than the model in f32, {report.ratio_fp16:.1f}x than in f16"),
        ("time", _view.duration(report.seconds)),
        ("peak memory", _view.size(report.peak_memory_bytes)),
    ]
    return lines


def show_summary(report: CreateReport) -> None:
    """Print the summary and what to type next."""
    _view.say(f"{report.profile} is ready")
    for label, value in summary(report, report.metrics.get("held_out_rows")):
        _view.say(f"  {label:<17}{value}")
    for label, path in (("log", report.log), ("plot", report.plot), ("answers", report.report)):
        if path is not None:
            _view.say(f"  {label:<17}{path}")
    _view.notice(f"Next: zen chat -p {report.profile}")


def _prepared(event: Prepared) -> str:
    held = f"{event.held_out} held out" if event.held_out else "none held out"
    line = f"{event.rows} rows, {held}; {event.steps} steps, {event.tokens} supervised tokens a pass"
    if event.cut:
        line += f"; {event.cut} longer rows cut (--max-length)"
    if event.resumed_from:
        line += f"; going on after step {event.resumed_from}"
    return line
