"""The tables of `zen bench` by name, and what they may be asked. Imports nothing heavy: the command line reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError

Report = Callable[[str, int, int | None], None]
"""Takes what is measured now, how many of how many steps are done."""


class Shape(NamedTuple):
    """One launch: projections of `outputs` columns each, of one x of `k` columns. `label` says whose they are."""

    label: str
    outputs: tuple[int, ...]
    k: int

    def __str__(self) -> str:
        return f"{'+'.join(map(str, self.outputs))}x{self.k}"


class Options(NamedTuple):
    """`quick`: fewer of everything. `shapes`, `rows`: instead of the kernels table's own. `layers`: of the checkpoints
    that encode reads. For the paper table: `profiles` to measure, a `finetune` to compress and the `data` to measure
    it on, a `text` to predict."""

    quick: bool = False
    shapes: tuple[Shape, ...] | None = None
    rows: tuple[int, ...] | None = None
    layers: int | None = None
    profiles: tuple[str, ...] = ()
    finetune: str | None = None
    data: Path | None = None
    text: Path | None = None


def _kernels(options: Options, report: Report) -> dict[str, Any]:
    from .kernels import measure

    return measure(options, report)


def _switch(options: Options, report: Report) -> dict[str, Any]:
    from .switch import measure

    return measure(options, report)


def _encode(options: Options, report: Report) -> dict[str, Any]:
    from .encode import measure

    return measure(options, report)


def _paper(options: Options, report: Report) -> dict[str, Any]:
    from .paper import measure

    return measure(options, report)


def _plot_kernels(document: dict[str, Any], file: Path) -> None:
    from .plot import plot_kernels

    plot_kernels(document, file)


def _plot_paper(document: dict[str, Any], file: Path) -> None:
    from .paper_rate import plot

    plot(document["tables"]["paper"], file)


TABLES: dict[str, Callable[[Options, Report], dict[str, Any]]] = {
    "kernels": _kernels,
    "switch": _switch,
    "encode": _encode,
    "paper": _paper,
}
BELONGS = {
    "shapes": "kernels",
    "rows": "kernels",
    "layers": "encode",
    "finetune": "paper",
    "data": "paper",
    "profiles": "paper",
    "text": "paper",
}
"""Field of `Options` -> the table that it is about."""
PLOTS: dict[str, Callable[[dict[str, Any], Path], None]] = {"kernels": _plot_kernels, "paper": _plot_paper}


def choose(names: Sequence[str]) -> list[str]:
    """`names` without repeats, every table for none. ConfigError for a name that is no table."""
    for name in names:
        if name not in TABLES:
            raise ConfigError("no such table", field="TABLE", expected=", ".join(TABLES), found=name)
    return list(dict.fromkeys(names)) or list(TABLES)


def parse_shape(text: str) -> Shape:
    """`NxK`, or `N+N+NxK` for projections of one x in one launch."""
    found = re.fullmatch(r"([1-9]\d*(?:\+[1-9]\d*){0,2})x([1-9]\d*)", text)
    if found is None:
        raise ConfigError("not a shape", field="--shape", expected="NxK or N+N+NxK", found=text)
    return Shape("", tuple(map(int, found[1].split("+"))), int(found[2]))


def parse_rows(text: str) -> tuple[int, ...]:
    """`M,M,...` as ascending numbers without repeats."""
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text) is None:
        raise ConfigError("not a list of row counts", field="--rows", expected="M,M,...", found=text)
    return tuple(sorted(set(map(int, text.split(",")))))


def run(names: Sequence[str], options: Options, report: Report) -> dict[str, Any]:
    """The document of `zen bench --json`: the machine, the versions, the date, then each table under its name."""
    from .machine import describe

    return {**describe(), "quick": options.quick, "tables": {name: TABLES[name](options, report) for name in names}}
