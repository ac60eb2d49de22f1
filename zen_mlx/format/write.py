"""Profile -> `.bitdelta` bytes: the same profile always gives the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from ..codec.factor import FactorPart, FactorSide
from ..codec.parts import MAX_PARTS, Part, SignPart
from ..errors import ConfigError
from ..fsio import Json, publish
from .layout import arrays_of, check_fits, check_layout, layout_of, object_bytes, row_count, segments
from .payload import check_numbers
from .spec import (
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    MAX_OBJECT_BYTES,
    MAX_TENSORS,
    PIECE_BYTES,
    PREFIX_BYTES,
    TENSOR_ALIGN,
    DeltaTensor,
    Facts,
    Fail,
    Profile,
    align,
    canonical,
    check_facts,
    check_shape,
    split_name,
)
from .v1_write import write_v1

_Described = tuple[tuple[int, ...], list[Json], int | None]
"""Shape, layout, number of rows."""


def write(profile: Profile, path: str | os.PathLike[str], version: int = 2) -> list[str]:
    """Publish `profile` at `path`, whole or not at all; return one sentence for each thing version 1 cannot hold.

    A tensor whose delta is zero everywhere is left out: an absent parameter is unchanged. The payload is streamed; no
    second copy of it is made. Errors: ConfigError (the profile breaks a rule of the format), StorageError.
    """
    if version not in (1, 2):
        raise ConfigError("unknown version", field="version", expected="1 or 2", found=version)
    target = Path(path)

    def fail(
        message: str, *, field: str, expected: object = None, found: object = None, hint: str | None = None
    ) -> NoReturn:
        raise ConfigError(message, path=target, field=field, expected=expected, found=found, hint=hint)

    check_facts(_facts(profile), fail)
    names = _checked_names(profile, fail)
    with publish(target) as temporary, open(temporary, "wb") as file:
        if version == 1:
            return write_v1(profile, names, file, fail)
        _write_v2(profile, names, file, fail)
    return []


def _checked_names(profile: Profile, fail: Fail) -> list[str]:
    """The names of the tensors that are not zero, sorted by their bytes; every tensor's arrays are checked."""
    if len(profile.tensors) > MAX_TENSORS:
        fail("too many tensors", field="tensors", expected=f"<= {MAX_TENSORS}", found=len(profile.tensors))
    keyed, objects = [], 0
    for name, tensor in profile.tensors.items():
        try:
            key = name.encode()
        except UnicodeEncodeError:
            fail("a name is not Unicode text", field="tensors", expected="UTF-8", found=ascii(name))
        if not 0 < len(key) <= MAX_NAME_BYTES:
            fail("bad name length", field="tensors", expected=f"1 to {MAX_NAME_BYTES} bytes", found=len(key))
        objects += _check_tensor(name, tensor, fail)
        if not all(_is_zero(part) for part in tensor.parts):
            keyed.append((key, name))
    if objects > MAX_OBJECT_BYTES:
        fail("too many small parts", field="tensors", expected=f"<= {MAX_OBJECT_BYTES} bytes of objects", found=objects)
    return [name for _, name in sorted(keyed)]


def _is_zero(part: Part) -> bool:
    if isinstance(part, FactorPart):
        vectors = [array for array in (part.u, part.v) if array is not None]
        return not all(array.any() for array in vectors) or all(
            any(
                not array.any()
                for array in (group.scales, *map(_sizes, (group.left, group.right)))
                if array is not None
            )
            for group in part.groups
        )
    arrays = part.scales if isinstance(part, SignPart) else (part.values,)
    return any(not array.any() for array in arrays)


def _sizes(side: FactorSide) -> np.ndarray | None:
    """What makes a side zero when it is: the steps, or the values; a sign never is."""
    return side.steps if side.data.dtype == np.uint32 else side.data


def _check_tensor(name: str, tensor: DeltaTensor, fail: Fail) -> int:
    """`object_bytes` of a tensor; each of its arrays has the type, shape and values the format asks for."""
    check_shape(tensor.shape, name, fail)
    layout = [layout_of(part) for part in tensor.parts]
    if not 1 <= len(layout) <= MAX_PARTS:
        fail("bad number of parts", field=name, expected=f"1 to {MAX_PARTS}", found=len(layout))
    check_layout(layout, name, fail, fail)
    rows = row_count(tensor.parts)
    check_fits(layout, tensor.shape, rows, name, fail)
    arrays = [array for part in tensor.parts for array in arrays_of(part)]
    expected = list(segments(layout, tensor.shape, rows))
    if len(arrays) != len(expected):
        fail("wrong number of arrays", field=name, expected=len(expected), found=len(arrays))
    for array, segment in zip(arrays, expected, strict=True):
        if array.dtype != segment.dtype or array.shape != segment.shape:
            wanted = f"{segment.dtype.name} {segment.shape}"
            found = f"{array.dtype.name} {array.shape}"
            fail("wrong array", field=f"{name}.{segment.role}", expected=wanted, found=found)
        check_numbers(array, segment, name, fail)
    return object_bytes(name, len(tensor.shape), layout, len(arrays))


def file_bytes(facts: Facts, tensors: Mapping[str, _Described]) -> int:
    """The size of the version 2 file of these facts and tensors, none of which is zero; no payload is needed.

    tensors: (shape, layout as in the header's table, R with a `rows` part) by name.
    """
    names = sorted(tensors, key=str.encode)
    header = _header(names, tensors, facts)
    end = 0
    for name in names:
        shape, layout, rows = tensors[name]
        *_, last = segments(layout, shape, rows)
        end = align(end, TENSOR_ALIGN) + last.offset + last.nbytes
    return PREFIX_BYTES + len(_padded(header)) + end


def _header(names: list[str], tensors: Mapping[str, _Described], facts: Facts) -> Json:
    """The header of the tensors in that order, its digest of the payload still zeros."""
    pairs = [split_name(name) for name in names]
    strings = sorted({text for pair in pairs for text in pair}, key=str.encode)
    at = {text: index for index, text in enumerate(strings)}
    layouts: list[list[Json]] = []
    known: dict[str, int] = {}
    entries: list[list[object]] = []
    for name, (head, tail) in zip(names, pairs, strict=True):
        shape, layout, rows = tensors[name]
        index = known.setdefault(canonical(layout), len(layouts))
        if index == len(layouts):
            layouts.append(layout)
        entries.append([at[head], at[tail], list(shape), index, *([] if rows is None else [rows])])
    return {**_facts(facts), "layouts": layouts, "payload_sha256": "0" * 64, "strings": strings, "tensors": entries}


def _facts(facts: Facts) -> Json:
    return {
        "base": facts.base,
        "metrics": facts.metrics,
        "model_count": facts.model_count,
        "profile": facts.info,
        "target_count": facts.target_count,
    }


def _write_v2(profile: Profile, names: list[str], file: BinaryIO, fail: Fail) -> None:
    described: dict[str, _Described] = {}
    for name in names:
        tensor = profile.tensors[name]
        described[name] = (tensor.shape, [layout_of(part) for part in tensor.parts], row_count(tensor.parts))
    header = _header(names, described, profile)
    size = len(_padded(header))
    if size > MAX_HEADER_BYTES:
        fail("the header is too large", field="header_bytes", expected=f"<= {MAX_HEADER_BYTES}", found=size)
    file.seek(PREFIX_BYTES + size)
    out = _Payload(file)
    for name in names:
        shape, layout, rows = described[name]
        out.pad_to(TENSOR_ALIGN)
        start = out.offset
        arrays = (array for part in profile.tensors[name].parts for array in arrays_of(part))
        for array, segment in zip(arrays, segments(layout, shape, rows), strict=True):
            out.zeros(start + segment.offset - out.offset)
            out.append(array)
    header["payload_sha256"] = out.digest()
    text = _padded(header)
    prefix = MAGIC + (2).to_bytes(4, "little") + bytes(4) + size.to_bytes(8, "little") + hashlib.sha256(text).digest()
    file.seek(0)
    file.write(prefix.ljust(PREFIX_BYTES, b"\0") + text)


def _padded(header: Json) -> bytes:
    text = canonical(header).encode()
    return text.ljust(align(len(text), PREFIX_BYTES))


class _Payload:
    """A stream that hashes what it writes, piece by piece."""

    def __init__(self, file: BinaryIO) -> None:
        self.offset = 0
        self._file = file
        self._piece = hashlib.sha256()
        self._digests = hashlib.sha256()

    def append(self, array: np.ndarray) -> None:
        self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def zeros(self, count: int) -> None:
        self._write(memoryview(bytes(count)))

    def pad_to(self, multiple: int) -> None:
        self.zeros(align(self.offset, multiple) - self.offset)

    def digest(self) -> str:
        if self.offset % PIECE_BYTES:
            self._digests.update(self._piece.digest())
        return self._digests.hexdigest()

    def _write(self, view: memoryview) -> None:
        while len(view):
            some = view[: PIECE_BYTES - self.offset % PIECE_BYTES]
            self._file.write(some)
            self._piece.update(some)
            self.offset += len(some)
            if self.offset % PIECE_BYTES == 0:
                self._digests.update(self._piece.digest())
                self._piece = hashlib.sha256()
            view = view[len(some) :]
