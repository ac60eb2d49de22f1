"""tuned - base in f32, computed for the requested rows only: neither array need be in memory.

`OnDisk` is an array that stays in its file: its rows are read when they are used.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import DTypeLike

from ..errors import ModelFormatError
from .arrays import over_rows


class _Handle:
    """An open file, closed when nothing has this any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class OnDisk:
    """`shape` numbers of `dtype` from byte `offset` of `file` on, C order. The file is open as long as this or a view is."""

    def __init__(self, file: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._path, self._offset = file, offset
        self._handle = _Handle(os.open(file, os.O_RDONLY))
        self.shape, self.dtype = shape, dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, *shape: int) -> OnDisk:
        """The same numbers; one -1 is what is left over."""
        known = math.prod(n for n in shape if n >= 0)
        return self._view(0, tuple(n if n >= 0 else math.prod(self.shape) // known for n in shape))

    def __getitem__(self, index: int) -> OnDisk:
        return self._view(index * self._row_bytes, self.shape[1:])

    def read(self, rows: slice, memory_of: Callable[[int], memoryview]) -> np.ndarray:
        """[rows] in the memory that `memory_of(nbytes)` gives. ModelFormatError where the file ends before."""
        start, stop, _ = rows.indices(len(self))
        memory = memory_of((stop - start) * self._row_bytes)
        _read_into(self._handle.number, memory, self._offset + start * self._row_bytes, self._path)
        return np.frombuffer(memory, self.dtype).reshape(stop - start, *self.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        self.reshape(-1).read(slice(None), lambda _: out.reshape(-1).view(np.uint8).data)
        return out if dtype is None else out.astype(dtype)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _view(self, start: int, shape: tuple[int, ...]) -> OnDisk:
        other = object.__new__(OnDisk)
        other.__dict__.update(self.__dict__, _offset=self._offset + start, shape=shape)
        return other


def _read_into(handle: int, memory: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(memory):
        left = memory[done:]
        if hasattr(os, "preadv"):
            count = os.preadv(handle, [left], offset + done)
        else:
            data = os.pread(handle, len(left), offset + done)
            count = len(data)
            left[:count] = data
        if not count:
            expected = f"{offset + len(memory)} bytes or more"
            raise ModelFormatError("the file shrank during reading", path=path, expected=expected, found=offset + done)
        done += count


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

    def reshape(self, *shape: int) -> Difference:
        """The same difference in another shape."""
        tuned, base = self._pair
        return Difference(tuned.reshape(*shape), base.reshape(*shape))

    @overload
    def __getitem__(self, index: int) -> Difference: ...
    @overload
    def __getitem__(self, index: slice) -> np.ndarray: ...
    def __getitem__(self, index: int | slice) -> Difference | np.ndarray:
        if not isinstance(index, slice):
            return Difference(*(array[index] for array in self._pair))
        tuned, base = (_rows(array, index, at) for at, array in enumerate(self._pair))
        out = _float32(tuned)
        return np.subtract(out, _float32(base), out=out if out is not tuned else None)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
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
