"""Counts of passed cases: kernel x dtype x scale x where it ran, and the largest error over the naive one's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from .backends import GPUS
from .cases import DTYPES, MATMULS, MERGES, SCALES

Key = tuple[str, str]  # `here` or `hardware`, kernel
Cell = tuple[str, str]  # dtype, scale
CELLS: tuple[Cell, ...] = tuple((dtype, scale) for dtype in DTYPES for scale in SCALES)


class Table:
    """What has passed so far."""

    def __init__(self) -> None:
        self.passed: dict[Key, Counter[Cell]] = defaultdict(Counter)
        self.worst: dict[Key, float] = defaultdict(float)

    def add(self, hardware: bool, kernel: str, dtype: str, scale: str, ratio: float) -> None:
        key = ("hardware" if hardware else "here", kernel)
        self.passed[key][dtype, scale] += 1
        self.worst[key] = max(self.worst[key], ratio)

    def holes(self) -> list[tuple[Key, Cell]]:
        """Cells without a case, of kernels that have run."""
        return [(key, cell) for key, counts in self.passed.items() for cell in CELLS if not counts[cell]]

    def lines(self) -> Iterator[str]:
        """f32/f16/bf16 counts a scale, one line a kernel and place."""
        width = max(map(len, SCALES)) + 1
        yield " " * 24 + "".join(f"{scale:>{width}}" for scale in SCALES) + "  error/naive"
        for place in ("here", "hardware"):
            for kernel in (*MATMULS, *MERGES):
                counts = self.passed.get((place, kernel))
                if counts is None:
                    continue
                emulated = kernel.startswith(GPUS) and place == "here"
                label = kernel + (" emulated" if emulated else "" if place == "here" else " hardware")
                cells = ["/".join(str(counts[dtype, scale]) for dtype in DTYPES) for scale in SCALES]
                worst = "exact" if kernel in MERGES else f"{self.worst[place, kernel]:.2f}"
                yield f"{label:24}" + "".join(f"{cell:>{width}}" for cell in cells) + f"{worst:>13}"
        absent = [kernel for kernel in (*MATMULS, *MERGES) if not any(key[1] == kernel for key in self.passed)]
        if absent:
            yield f"not run: {', '.join(absent)}"


TABLE: pytest.StashKey[Table] = pytest.StashKey()
