"""Reads forward through a file whose lengths nobody vouches for: each is checked against the file's before a byte is taken."""

from __future__ import annotations

from .flat_bits import read_exactly
from .spec import Fail


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
            self._fail("the file became shorter while it was read", field=field, expected=count, found="end of file")
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
