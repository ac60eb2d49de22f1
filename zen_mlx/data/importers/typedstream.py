"""The string inside a typedstream archive of an NSString or NSAttributedString, as Apple's NSArchiver writes it.

    header: 04, 0b "streamtyped", system version          integers: one byte, or 81 + i16, or 82 + i32, little-endian
    group: a type string, then a value for each letter     strings and objects are numbered as they appear; 92 + n refers back
    84 begins something new, 85 is nil, 86 ends an object   object: class (name, version, superclass), then groups

Only what leads to the first string is read: an attributed string's first value is its text.
"""

from __future__ import annotations

from ...errors import DataError

_HEADER = b"\x04\x0bstreamtyped"
_I16, _I32, _NEW, _NIL, _FIRST_REFERENCE = 0x81, 0x82, 0x84, 0x85, 0x92
_MOST_DEPTH = 16
_CLASSES = (b"NSString", b"NSAttributedString")


def archived_string(archive: bytes) -> str:
    """The text in `archive`; `DataError` for anything else."""
    if not archive.startswith(_HEADER):
        raise DataError("not a typedstream archive")
    reader = _Reader(archive, len(_HEADER))
    reader.integer()
    return reader.group(0).decode("utf-8", "replace")


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._strings: list[bytes] = []

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise DataError("the typedstream archive ends early")
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self._at:
            raise DataError("the typedstream archive ends early")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self, head: int | None = None) -> int:
        """An unsigned integer: a length, a version or a reference."""
        head = self._byte() if head is None else head
        if head in (_I16, _I32):
            return int.from_bytes(self._bytes(2 if head == _I16 else 4), "little")
        return head

    def _shared(self) -> bytes:
        head = self._byte()
        if head == _NEW:
            self._strings.append(self._bytes(self.integer()))
            return self._strings[-1]
        index = self.integer(head) - _FIRST_REFERENCE
        if head == _NIL or not 0 <= index < len(self._strings):
            raise DataError("the typedstream archive has a dangling reference")
        return self._strings[index]

    def group(self, depth: int) -> bytes:
        """The bytes of the first string in a group."""
        types = self._shared()
        if types == b"+":
            return self._bytes(self.integer())
        if types != b"@" or self._byte() != _NEW or depth > _MOST_DEPTH:
            raise DataError("the typedstream archive has no string")
        if not any(name in _CLASSES for name in self._class()):
            raise DataError("the typedstream archive has no string")
        return self.group(depth + 1)

    def _class(self) -> list[bytes]:
        """Names of a class and of its ancestors as far as they are spelled out here."""
        names: list[bytes] = []
        while (head := self._byte()) == _NEW:
            names.append(self._shared())
            self.integer()
        if head != _NIL and self.integer(head) < _FIRST_REFERENCE:
            raise DataError("the typedstream archive has a dangling reference")
        return names
