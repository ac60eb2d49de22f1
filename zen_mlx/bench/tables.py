"""The tables of `zen bench` by name, with their options. Imports nothing heavy, because the command line reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ConfigError
from ..events import Progress
from ..fsio import Json
from .options import Options


def _kernels(options: Options, report: Progress) -> Json:
    from .kernel_times import measure

    return measure(options, report)


def _switch(options: Options, report: Progress) -> Json:
    from .switch import measure

    return measure(options, report)


def _encode(options: Options, report: Progress) -> Json:
    from .encoding import measure

    return measure(options, report)


def _paper(options: Options, report: Progress) -> Json:
    from .paper import measure

    return measure(options, report)


def _serve(options: Options, report: Progress) -> Json:
    from .serve_table import measure

    return measure(options, report)


def _plot_kernels(document: Json, file: Path) -> None:
    from .kernel_times import plot_kernels

    plot_kernels(document, file)


def _plot_paper(document: Json, file: Path) -> None:
    from .paper_rate import plot

    plot(document["tables"]["paper"], file)


def _plot_serve(document: Json, file: Path) -> None:
    from .serve_table import plot

    plot(document, file)


TABLES: dict[str, Callable[[Options, Progress], Json]] = {
    "kernels": _kernels,
    "switch": _switch,
    "encode": _encode,
    "paper": _paper,
    "serve": _serve,
}
PLOTS: dict[str, Callable[[Json, Path], None]] = {
    "kernels": _plot_kernels,
    "paper": _plot_paper,
    "serve": _plot_serve,
}


def choose(names: Sequence[str]) -> list[str]:
    """`names` without repeats, every table for none. ConfigError for a name that is no table."""
    for name in names:
        if name not in TABLES:
            raise ConfigError("no such table", field="TABLE", expected=", ".join(TABLES), found=name)
    return list(dict.fromkeys(names)) or list(TABLES)


def run(names: Sequence[str], options: Options, report: Progress) -> Json:
    """The document of `zen bench --json`: the machine, the versions, the date, then each table under its name."""
    from .machine import describe

    return {**describe(), "quick": options.quick, "tables": {name: TABLES[name](options, report) for name in names}}
