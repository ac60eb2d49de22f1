"""Output for a user: data on stdout, progress and notices on stderr. rich is imported when it is used."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..events import Progress


_PLAIN_EVERY_S = 15.0


def emit(document: Any) -> None:
    """One JSON document on stdout. A number JSON has no word for becomes null."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str = "") -> None:
    """A line of data on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def dim(text: str) -> None:
    """A line on stderr that stays in the background, where colours are wanted."""
    styled = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    notice(f"\x1b[2m{text}\x1b[0m" if styled else text)


def printable(text: str) -> str:
    """`text` without control characters, which a model must not send to a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def show(*things: Any) -> None:
    """Tables and the like on stdout, whole lines where no one watches."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() else 160
    console = Console(file=sys.stdout, highlight=False, width=wide)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str), markup=False)


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Any:
    """An empty rich table with those columns; the ones in `right` are right-aligned."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def cell(text: Any) -> Any:
    """A table cell that is text and nothing else: no markup, no control characters."""
    from rich.text import Text

    return Text(printable(str(text)))


def size(count: int | None) -> str:
    """Bytes for people: 14.2 MB (powers of ten, as disks and networks are sold)."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people: 0.012 s, 8.1 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def number(value: Any, digits: int = 3) -> str:
    """A float with `digits` decimals, "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Yield report(description, done, total): a bar per description on a terminal; elsewhere a line now and then, or
    nothing if quiet (one JSON document was asked for)."""
    if sys.stderr.isatty():
        with _bars() as report:
            yield report
    elif quiet:
        yield lambda description, done, total: None
    else:
        yield Lines()


class Lines:
    """A line on stderr for each new description, and one in a while."""

    def __init__(self) -> None:
        self.description, self.at = "", 0.0

    def __call__(self, description: str, done: int, total: int | None) -> None:
        share = f" {100 * done // total} %" if total and description == self.description else ""
        if self.due(description):
            notice(f"{description}{share}")

    def due(self, description: str, anyway: bool = False) -> bool:
        """Whether it is time for a line of `description`, which is then taken to be written."""
        now = time.monotonic()
        if not anyway and description == self.description and now - self.at < _PLAIN_EVERY_S:
            return False
        self.description, self.at = description, now
        return True


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with rich_progress.Progress(
        *columns, console=Console(file=sys.stderr), transient=True, speed_estimate_period=600
    ) as bars:
        tasks: dict[str, Any] = {}

        def report(description: str, done: int, total: int | None) -> None:
            if description not in tasks:
                for other in tasks.values():
                    bars.update(other, visible=False)
                tasks[description] = bars.add_task(description, total=total)
            elif not bars.tasks[tasks[description]].visible:
                for other in tasks.values():
                    bars.update(other, visible=other == tasks[description])
            bars.update(tasks[description], completed=done, total=total)

        yield report


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
