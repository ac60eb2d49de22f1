"""What a run shows while it lasts and when it is done. Shared by train, compress, eval and demo."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import _view

if TYPE_CHECKING:
    from ..made import CreateReport

_PLAIN_EVERY_S = 15.0
_SMOOTH = 0.8  # share of the old value in the loss that is shown


class _Training:
    """Running figures of a training: smoothed loss, lambda, tokens per second, seconds left."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self._tokens = 0
        self._seconds = 0.0

    def line(self, event: Any) -> str:
        self.loss = event.loss if self.loss is None else _SMOOTH * self.loss + (1 - _SMOOTH) * event.loss
        self._tokens += event.tokens
        self._seconds += event.seconds
        speed = self._tokens / self._seconds if self._seconds else 0.0
        return f"loss {self.loss:.3f}  lambda {event.quantized_share:.2f}  {speed:.0f} tokens/s"


@contextlib.contextmanager
def run_events(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """Yield the function that takes a run's events: bars on a terminal; elsewhere a line now and then, or nothing if quiet."""
    from ..create import Prepared
    from ..data.examples import ImportReport
    from ..made import Stage
    from .data import notices

    training = _Training()
    if quiet and not sys.stderr.isatty():
        yield lambda event: None
        return
    with _view.progress() as bars:
        plain = not sys.stderr.isatty()
        said_at = 0.0

        def tell(event: Any) -> None:
            nonlocal said_at
            if isinstance(event, ImportReport):
                for text in notices(event):
                    _view.notice(text)
            elif isinstance(event, Prepared):
                _view.notice(_prepared(event))
                if not plain:
                    bars("training", event.resumed_from, event.steps, "first step")
            elif isinstance(event, Stage):
                bars(event.name, event.done, event.total or None)
            elif plain:
                line = training.line(event)
                if time.monotonic() - said_at > _PLAIN_EVERY_S or event.step == event.steps:
                    _view.notice(f"step {event.step}/{event.steps}  {line}")
                    said_at = time.monotonic()
            else:
                bars("training", event.step, event.steps, training.line(event))

        yield tell


def summary(report: CreateReport, held_out_rows: int | None) -> list[tuple[str, str]]:
    """(label, value) lines of a finished profile."""
    metrics = report.metrics
    base, profile, reference = (metrics.get(f"{name}_loss") for name in ("base", "profile", "reference"))
    lines = []
    if base is not None and profile is not None:
        rows = f" on {held_out_rows} held-out rows" if held_out_rows else ""
        lines.append(("loss", f"{base:.3f} -> {profile:.3f}{rows}"))
        lines.append(("perplexity", f"{math.exp(base):.1f} -> {math.exp(profile):.1f}"))
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
    _view.notice(f"Next: zen chat -p {report.profile}")


def _prepared(event: Any) -> str:
    held = f"{event.held_out} held out" if event.held_out else "none held out"
    line = f"{event.rows} rows, {held}; {event.steps} steps, {event.tokens} supervised tokens a pass"
    if event.cut:
        line += f"; {event.cut} longer rows cut (--max-length)"
    if event.resumed_from:
        line += f"; going on after step {event.resumed_from}"
    return line
