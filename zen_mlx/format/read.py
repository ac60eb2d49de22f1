"""`.bitdelta` bytes -> Profile: the profile that was written, or a `FormatError` that names the fault in the file.

Every size is checked against the real length of the file before anything is allocated, so memory stays under the size
of the file + 64 MiB whatever the header claims.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import FormatError, UnsupportedFormat
from ..fsio import Json
from . import v1_read
from .header import parse_header
from .layout import part_of, segments
from .payload import check_numbers, read_payload
from .source import failure, open_file
from .spec import MAGIC, PREFIX_BYTES, DeltaTensor, Facts, Fail, Header, Profile, TensorInfo


def read(path: str | os.PathLike[str]) -> Profile:
    """The whole profile, every byte verified. A tensor's payload has its own buffer: dropping it frees the memory.

    Errors: FormatError, UnsupportedFormat (another version or kind of file), InputError (no such file).
    """
    with open_file(path) as (fd, size, source):
        version = _version(fd, size, source)
        if version == 1:
            return v1_read.read(fd, size, source, failure(source, FormatError), failure(source, UnsupportedFormat))
        header, payload_sha256, start = parse_header(fd, size, source)
        fail = failure(source, FormatError)
        tensors = {}
        for name, buffer in read_payload(fd, start, size - start, header.tensors, payload_sha256, fail):
            tensors[name] = _tensor(name, header.tensors[name], buffer, fail)
        return Profile(tensors=tensors, **_facts(header))


def read_header(path: str | os.PathLike[str]) -> Header:
    """The verified header, with where each tensor lies. The payload is not read, but its length is checked.

    Version 1 has its names and shapes between the data: they are found by skipping from block to block.
    Errors: as `read`.
    """
    with open_file(path) as (fd, size, source):
        if _version(fd, size, source) == 1:
            fail, unsupported = failure(source, FormatError), failure(source, UnsupportedFormat)
            return v1_read.read_header(fd, size, source, fail, unsupported)
        return parse_header(fd, size, source)[0]


def _facts(facts: Facts) -> Json:
    return {name: getattr(facts, name) for name in Facts.__dataclass_fields__}


def _version(fd: int, size: int, path: Path) -> int:
    """1 or 2 from the first 18 bytes; look-alikes are told apart by their content."""
    head = os.pread(fd, PREFIX_BYTES, 0)
    if head[: len(MAGIC)] != MAGIC:
        if MAGIC.startswith(head):
            raise FormatError("the file is cut short", path=path, field="magic", expected=">= 64 bytes", found=size)
        raise UnsupportedFormat(
            "not a .bitdelta file", path=path, field="magic", expected=str(MAGIC), found=str(head[: len(MAGIC)])
        )
    if len(head) < 16:
        raise FormatError("the file is cut short", path=path, field="flags", expected=">= 16 bytes", found=size)
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


def _tensor(name: str, info: TensorInfo, buffer: np.ndarray, fail: Fail) -> DeltaTensor:
    """The parts as views of `buffer`, their numbers checked."""
    arrays: list[list[np.ndarray]] = [[] for _ in info.layout]
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
