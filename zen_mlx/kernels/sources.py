"""Source text of a kernel: `metal_kernels/` and `cuda_kernels/` lie inside an installed package, else in the clone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..errors import StorageError

_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def source(folder: str, name: str) -> str:
    """The text of `folder/name`. StorageError where this installation lacks it."""
    for place in (_PACKAGE / folder, _PACKAGE.parent / folder):
        if (place / name).is_file():
            return (place / name).read_text()
    raise StorageError("this installation lacks a kernel's source", path=_PACKAGE / folder / name, hint="reinstall it")
