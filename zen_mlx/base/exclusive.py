"""A lock under which one process at a time builds a base folder; the next one removes what a killed one left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from .. import fsio
from ..errors import InputError

_POLL_S = 0.2


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, waiting for another process that has it, and sweep half-made siblings."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(fsio.lock(folder.parent / f".{folder.name}.lock", "another process is building it"))
                break
            except InputError:
                time.sleep(_POLL_S)
        for pattern in (f".{folder.name}.fetch-*", f".{folder.name}.*.tmp", f".{folder.name}.*.old"):
            for left in folder.parent.glob(pattern):
                fsio.remove(left)
        yield
