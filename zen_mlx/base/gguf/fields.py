"""The key-value part of a GGUF file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, TypeVar

from ...errors import ModelFormatError

_T = TypeVar("_T")
# What GGUFReader and the dequantizers raise when bytes are missing or senseless.
DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, MemoryError, OSError, struct.error)


def open_reader(source: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(source)
    except DAMAGE as error:
        raise ModelFormatError("not a readable GGUF file", path=source, found=str(error)) from error


class Fields:
    """The key-value part of a GGUF file; a missing or mistyped key is a `ModelFormatError`."""

    def __init__(self, source: Path, reader: Any) -> None:
        self.source = source
        self._reader = reader

    def get(self, key: str, kind: type[_T] | tuple[type[_T], ...]) -> _T | None:
        """The value of `key`, None when absent."""
        field = self._reader.get_field(key)
        if field is None:
            return None
        try:
            value = field.contents()
        except DAMAGE as error:
            raise ModelFormatError("unreadable GGUF field", path=self.source, field=key, found=str(error)) from error
        if not isinstance(value, kind):
            raise ModelFormatError("a GGUF field is mistyped", path=self.source, field=key, found=type(value).__name__)
        return value

    def need(self, key: str, kind: type[_T] | tuple[type[_T], ...]) -> _T:
        value = self.get(key, kind)
        if value is None:
            raise ModelFormatError("a GGUF field is missing", path=self.source, field=key)
        return value
