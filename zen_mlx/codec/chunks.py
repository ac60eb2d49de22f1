"""[work(rows) for rows in row_chunks(rows, columns)], on as many threads as there are cores.

NumPy lets go of the interpreter inside its loops, and a chunk stays in a core's cache. The chunks and the order of their
results depend on the shape alone: so do the sums that are made of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")

CHUNK_ELEMENTS = 1 << 18
"""Elements handled at a time: temporaries stay in the processor's cache whatever the tensor's size."""
_ALONE = 2
"""As many chunks are done before another thread would have begun."""


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cover `rows`, each of about `CHUNK_ELEMENTS` elements and at least one row."""
    step = max(1, CHUNK_ELEMENTS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def over_rows(work: Callable[[slice], _Result], rows: int, columns: int) -> list[_Result]:
    """The results in the chunks' order; what `work` raises is raised here. `work` writes to its own rows only."""
    chunks = list(row_chunks(rows, columns))
    threads = min(len(chunks), _cores())
    if threads < 2 or len(chunks) <= _ALONE:
        return [work(chunk) for chunk in chunks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, chunks))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
