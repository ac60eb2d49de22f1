"""Instructions a weight in the CUDA matvec's hot loop, counted in its SASS; exit status 1 above the limit.

    python scripts/sass_count.py [--limit 1.4] [--target 90]

A loop is what a backward branch encloses; the hot ones are the innermost that hold predicated FADD. All their
instructions count, loads and branch included. A lane works on 2 words of 8 rows in one pass: 512 weights.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from typing import NamedTuple

from nvcc import compiled, sass, toolkit, unit

# isort: split
import mlx.core as mx

from zen_mlx.kernels.cuda_text import CudaForm

WEIGHTS_A_PASS = 8 * 2 * 32
DECODE = CudaForm("matvec", row=True, base=True, x=mx.bfloat16, y=mx.bfloat16)
LIMIT = 1.4

_LINE = re.compile(r"\s+/\*([0-9a-f]+)\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_]*)(\S*)\s*(.*?);")


class Loop(NamedTuple):
    """One innermost loop: its instructions by name, and how many of its FADD are predicated."""

    instructions: Counter[str]
    selected: int

    @property
    def a_weight(self) -> float:
        return self.instructions.total() / WEIGHTS_A_PASS


def hot_loops(lines: list[str]) -> list[Loop]:
    """The innermost loops of a kernel that add selected columns, the leanest (aligned rows) first."""
    rows = [m for m in map(_LINE.match, lines) if m]
    places = {int(m[1], 16): i for i, m in enumerate(rows)}
    spans = []
    for i, m in enumerate(rows):
        to = re.search(r"(0x[0-9a-f]+)\s*$", m[5].strip()) if m[3] == "BRA" else None
        if to and places.get(int(to[1], 16), i) < i:
            spans.append((places[int(to[1], 16)], i))
    loops = []
    for start, end in spans:
        inner = any((a, b) != (start, end) and start <= a and b <= end for a, b in spans)
        selected = sum(m[3] == "FADD" and bool(m[2]) for m in rows[start : end + 1])
        if selected >= WEIGHTS_A_PASS // 2 and not inner:
            loops.append(Loop(Counter(m[3] for m in rows[start : end + 1]), selected))
    return sorted(loops, key=lambda loop: loop.a_weight)


def count(target: int = 90) -> list[Loop]:
    """The decode kernel's hot loops. RuntimeError without nvcc or where the SASS has none."""
    home = toolkit()
    if home is None:
        raise RuntimeError("nvcc is not installed: the extra `nvcc` brings it")
    [lines] = sass(compiled(unit([DECODE]), home, (target,)).binary, home, target).values()
    loops = hot_loops(lines)
    if not loops:
        raise RuntimeError(f"no hot loop in the SASS for sm_{target}")
    return loops


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions a weight in the CUDA matvec's hot loop.")
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--target", type=int, default=90)
    given = parser.parse_args()
    loops = count(given.target)
    for name, loop in zip(("aligned rows", "any rows"), loops, strict=False):
        named = ", ".join(f"{n} {op}" for op, n in loop.instructions.most_common(8))
        print(f"sm_{given.target} {name}: {loop.a_weight:.3f} instructions a weight ({named})")
    return int(loops[0].a_weight > given.limit)


if __name__ == "__main__":
    sys.exit(main())
