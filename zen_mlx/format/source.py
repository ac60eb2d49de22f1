"""A path -> an open regular file of known length, and errors that name it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FormatError, InputError
from .spec import Fail


def failure(path: Path, kind: type[FormatError]) -> Fail:
    """A function that raises `kind` for the file at `path`."""

    def fail(message: str, *, field: str, expected: Any = None, found: Any = None) -> NoReturn:
        raise kind(message, path=path, field=field, expected=expected, found=found)

    return fail


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, Path]]:
    """(descriptor, length, path) of a regular file; InputError for anything else and for a failed read."""
    source = Path(path)
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer for ever.
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError("no such file", path=source) from None
    except (OSError, ValueError) as error:
        raise InputError("the file cannot be opened", path=source, found=str(error)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
            raise InputError("not a file", path=source, expected="a .bitdelta file", found=found)
        yield fd, status.st_size, source
    except OSError as error:
        raise InputError("the file cannot be read", path=source, found=str(error)) from error
    finally:
        os.close(fd)
