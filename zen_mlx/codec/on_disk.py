"""An array that stays in its file: rows of it are read when they are asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFormatError


class _Handle:
    """An open file, closed when nothing has this any more."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class OnDisk:
    """`shape` numbers of `dtype` from byte `offset` of `file` on, C order. The file is open as long as this or a view is."""

    def __init__(self, file: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
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
            raise ModelFormatError(
                "the file became shorter while it was read", path=path, expected=expected, found=offset + done
            )
        done += count
