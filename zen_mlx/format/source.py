"""A path -> an open regular file of known length, errors that name it, and a cursor that reads forward through it.

Nobody vouches for the lengths in a file: each is checked against the file's own before a byte is read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ..errors import FormatError, InputError
from .flat_bits import read_exactly
from .spec import Fail


def failure(path: Path, kind: type[FormatError]) -> Fail:
    """A function that raises `kind` for the file at `path`."""

    def fail(
        message: str, *, field: str, expected: object = None, found: object = None, hint: str | None = None
    ) -> NoReturn:
        raise kind(message, path=path, field=field, expected=expected, found=found, hint=hint)

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


class Cursor:
    """Reads forward through the file; every length is checked before a byte is taken."""

    def __init__(self, fd: int, size: int, fail: Fail, at: int = 16) -> None:
        self.at = at
        self._fd, self._size, self._fail = fd, size, fail

    @property
    def ended(self) -> bool:
        return self.at == self._size

    def skip(self, count: int, field: str) -> int:
        """Where the `count` bytes begin that are passed over."""
        if count > self._size - self.at:
            self._fail("the file is cut short", field=field, expected=f"{count} bytes", found=self._size - self.at)
        begin, self.at = self.at, self.at + count
        return begin

    def take(self, count: int, field: str) -> bytes:
        begin = self.skip(count, field)
        data = read_exactly(self._fd, begin, count)
        if data is None:
            self._fail("the file shrank during reading", field=field, expected=count, found="end of file")
        return data

    def u32(self, field: str) -> int:
        return int.from_bytes(self.take(4, field), "little")

    def text(self, field: str, limit: int) -> str:
        length = self.u32(field)
        if length > limit:
            self._fail("the text is too long", field=field, expected=f"<= {limit} bytes", found=length)
        data = self.take(length, field)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self._fail("not UTF-8", field=field, expected="UTF-8", found=f"a bad byte at {error.start}")
