"""Private records of a profile, which stay on this machine: the log of its run, its loss plot, its report."""

from __future__ import annotations

import os
from pathlib import Path

from .. import fsio
from ..paths import log_path, plot_path, report_path


def paths(home: Path, name: str) -> list[Path]:
    """Where the records of profile `name` are, whether or not there are any."""
    return [log_path(home, name), plot_path(home, name), report_path(home, name)]


def remove(home: Path, name: str) -> None:
    """Remove the records of `name`."""
    for path in paths(home, name):
        fsio.remove(path)


def move(home: Path, old: str, new: str) -> None:
    """Give the records of `old` to `new`, in place of those it has."""
    for before, after in zip(paths(home, old), paths(home, new), strict=True):
        if before.exists():
            os.replace(before, after)
        else:
            fsio.remove(after)
