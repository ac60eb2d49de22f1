"""`.bitdelta` bytes -> Profile: the profile that was written, or a `FormatError` that says what is wrong with the file.

Every size is checked against the real length of the file before anything is allocated, so memory stays under the size
of the file + 64 MiB whatever the header claims.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FormatError, InputError, UnsupportedFormat
from . import v1_read
from .header import parse_header
from .layout import part_of, segments
from .payload import read_payload
from .spec import MAGIC, PREFIX_BYTES, DeltaTensor, Facts, Fail, Header, Profile, TensorInfo
from .values import check_numbers


def read(path: str | os.PathLike[str]) -> Profile:
    """The whole profile, every byte verified. A tensor's payload has its own buffer: dropping it frees the memory.

    Errors: FormatError, UnsupportedFormat (another version or kind of file), InputError (no such file).
    """
    with _open(path) as (fd, size, source):
        version = _version(fd, size, source)
        if version == 1:
            return v1_read.read(fd, size, source, _failure(source, FormatError), _failure(source, UnsupportedFormat))
        header, payload_sha256, start = parse_header(fd, size, source)
        fail = _failure(source, FormatError)
        tensors = {}
        for name, buffer in read_payload(fd, start, size - start, header.tensors, payload_sha256, fail):
            tensors[name] = _tensor(name, header.tensors[name], buffer, fail)
        return Profile(tensors=tensors, **_facts(header))


def read_header(path: str | os.PathLike[str]) -> Header:
    """The verified header, with where each tensor lies. The payload is not read, but its length is checked.

    Version 1 has its names and shapes between the data: they are found by skipping from block to block.
    Errors: as `read`.
    """
    with _open(path) as (fd, size, source):
        if _version(fd, size, source) == 1:
            fail, unsupported = _failure(source, FormatError), _failure(source, UnsupportedFormat)
            return v1_read.read_header(fd, size, source, fail, unsupported)
        return parse_header(fd, size, source)[0]


def _facts(facts: Facts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in Facts.__dataclass_fields__}


def _failure(path: Path, kind: type[FormatError]) -> Fail:
    def fail(message: str, *, field: str, expected: Any = None, found: Any = None) -> NoReturn:
        raise kind(message, path=path, field=field, expected=expected, found=found)

    return fail


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, Path]]:
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


def _version(fd: int, size: int, path: Path) -> int:
    """1 or 2 from the first 18 bytes; look-alikes are told apart by their content."""
    head = os.pread(fd, PREFIX_BYTES, 0)
    if head[: len(MAGIC)] != MAGIC:
        if MAGIC.startswith(head):
            raise FormatError(
                "the file is cut short", path=path, field="magic", expected="64 bytes or more", found=size
            )
        raise UnsupportedFormat(
            "not a .bitdelta file", path=path, field="magic", expected=str(MAGIC), found=str(head[: len(MAGIC)])
        )
    if len(head) < 16:
        raise FormatError("the file is cut short", path=path, field="flags", expected="16 bytes or more", found=size)
    version, flags = int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")
    if version not in (1, 2):
        raise UnsupportedFormat("unknown version", path=path, field="version", expected="1 or 2", found=version)
    if flags:
        message = "unknown flags"
        if version == 1 and head[16:18] == b'{"':
            message = "a delta file of the whitepaper's reference code, not a .bitdelta file"
        elif version == 1:
            message = "unknown flags, or a delta file of another program"
        raise UnsupportedFormat(message, path=path, field="flags", expected=0, found=flags)
    return version


def _tensor(name: str, info: TensorInfo, buffer: Any, fail: Fail) -> DeltaTensor:
    """The parts as views of `buffer`, their numbers checked."""
    arrays: list[list[Any]] = [[] for _ in info.layout]
    end = 0
    for segment in segments(info.layout, info.shape, info.rows):
        if segment.offset > end and buffer[end : segment.offset].any():
            fail("a gap between segments is not zero", field=name, expected=0, found=f"set bytes after {end}")
        end = segment.offset + segment.nbytes
        raw = buffer[segment.offset : segment.offset + segment.nbytes]
        array = raw.view(segment.dtype).reshape(segment.shape)
        check_numbers(array, segment, name, fail)
        arrays[segment.part].append(array)
    parts = (part_of(entry, own) for entry, own in zip(info.layout, arrays, strict=True))
    return DeltaTensor(info.shape, tuple(parts))
