"""Stored arrays: the choice of their float type, and work on their rows on all cores.

    f16 where it can hold the numbers, else f32                     `narrowed`
    [work(rows) for rows in row_chunks(rows, columns)]              `over_rows`, on as many threads as there are cores

NumPy releases the interpreter inside its loops, and a chunk stays in a core's cache. The chunks and the order of their
results depend on the shape alone, and so do the sums that are made of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

DTYPES: dict[str, np.dtype[np.generic]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}
F16_LARGEST = 65504.0
F16_SMALLEST = 2.0**-17
"""Under this a float16 keeps fewer than 8 significant bits."""


def float_name(array: np.ndarray) -> str:
    """`f16` or `f32`."""
    return "f16" if array.dtype == np.float16 else "f32"


def narrowed(arrays: tuple[np.ndarray, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """All `arrays` as `dtype`, but as f32 when f16 cannot hold one of them (one over 65504, or all under 2^-17)."""
    largest = [float(np.abs(array).max(initial=0.0)) for array in arrays]
    if dtype == "f16" and all(top <= F16_LARGEST and (top == 0 or top >= F16_SMALLEST) for top in largest):
        return tuple(array.astype(DTYPES["f16"]) for array in arrays)
    return tuple(array.astype(DTYPES["f32"], copy=False) for array in arrays)


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
