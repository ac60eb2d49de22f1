"""Options of the tables of `zen bench`, and the shapes that are measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError


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
