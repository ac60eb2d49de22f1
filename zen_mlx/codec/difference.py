"""tuned - base in f32, made for the rows that are asked for: the whole of it need not be in memory."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from .chunks import over_rows
from .on_disk import OnDisk

BF16 = np.dtype([("bf16", "<u2")])
"""How an array of bfloat16, for which NumPy has no type, says what its 16 bits are."""

Floats = np.ndarray | OnDisk


class _Memory(threading.local):
    """What a thread reads into, for each array of a pair."""

    def __init__(self) -> None:
        self.held: dict[int, bytearray] = {}


_memory = _Memory()


class Difference:
    """tuned - base of two arrays of one shape and of any floats. d[rows]: an f32 array; d[i]: the difference at i."""

    def __init__(self, tuned: Floats, base: Floats) -> None:
        self._pair = (tuned, base)
        self.shape: tuple[int, ...] = tuned.shape
        self.ndim = len(self.shape)
        self.size = math.prod(self.shape)

    def reshape(self, *shape: Any) -> Difference:
        """The same difference in another shape."""
        tuned, base = self._pair
        return Difference(tuned.reshape(*shape), base.reshape(*shape))

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return Difference(*(array[index] for array in self._pair))
        tuned, base = (_rows(array, index, at) for at, array in enumerate(self._pair))
        out = _float32(tuned)
        return np.subtract(out, _float32(base), out=out if out is not tuned else None)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = np.empty(self.shape, np.float32 if dtype is None else dtype)
        columns = self.shape[-1] if self.shape else 1
        flat, rows_of = out.reshape(-1, columns), self.reshape(-1, columns)

        def fill(rows: slice) -> None:
            flat[rows] = rows_of[rows]

        over_rows(fill, *flat.shape)
        return out


def _rows(array: Floats, rows: slice, at: int) -> np.ndarray:
    """Those on disk lie in this thread's memory for `at` until it reads the next ones."""
    if isinstance(array, np.ndarray):
        return np.asarray(array[rows])

    def memory_of(nbytes: int) -> memoryview:
        if len(_memory.held.get(at, b"")) < nbytes:
            _memory.held[at] = bytearray(nbytes)
        return memoryview(_memory.held[at])[:nbytes]

    return array.read(rows, memory_of)


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype != BF16:
        return array.astype(np.float32, copy=False)
    # A bfloat16 is the upper half of a float32.
    return np.left_shift(array["bf16"], 16, dtype=np.uint32).view(np.float32)


Delta = np.ndarray | Difference
"""What the codecs take: [E.., N, K], of which they ask for rows of a matrix."""
