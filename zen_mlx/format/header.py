"""The version 2 header: bytes [64, 64 + header_bytes) -> facts and the place of every tensor."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ..errors import FormatError, UnsupportedFormat
from ..fsio import Json
from .layout import check_fits, check_layout, object_bytes, segments
from .spec import (
    HEADER_FIELDS,
    MAX_HEADER_BYTES,
    MAX_NAME_BYTES,
    MAX_OBJECT_BYTES,
    MAX_TENSORS,
    PREFIX_BYTES,
    TENSOR_ALIGN,
    Fail,
    Header,
    TensorInfo,
    align,
    canonical,
    check_facts,
    check_shape,
    show,
    split_name,
)

_MAX_PARSED_BYTES = 48 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SLICE = 2048


class _DuplicateKey(ValueError):
    """An object names a key twice."""


def parse_header(fd: int, size: int, path: Path) -> tuple[Header, str, int]:
    """(header, payload digest, payload start) of a version 2 file of `size` bytes. The payload's length is checked."""

    def fail(
        message: str, *, field: str, expected: object = None, found: object = None, hint: str | None = None
    ) -> NoReturn:
        raise FormatError(message, path=path, field=field, expected=expected, found=found, hint=hint)

    def unsupported(
        message: str, *, field: str, expected: object = None, found: object = None, hint: str | None = None
    ) -> NoReturn:
        raise UnsupportedFormat(message, path=path, field=field, expected=expected, found=found, hint=hint)

    text, digest, start = _read_text(fd, size, fail)
    value = _parse(text, fail)
    del text
    if tuple(sorted(value)) != HEADER_FIELDS:
        missing, unknown = sorted(set(HEADER_FIELDS) - set(value)), sorted(set(value) - set(HEADER_FIELDS))
        found = f"missing {missing}" if missing else f"unknown {show(unknown[0])}"
        fail("wrong header fields", field="header", expected=", ".join(HEADER_FIELDS), found=found)
    check_facts(value, fail)
    payload_sha256 = value["payload_sha256"]
    if not isinstance(payload_sha256, str) or not _SHA256.fullmatch(payload_sha256):
        fail("bad digest", field="payload_sha256", expected="64 lower-case hex digits", found=show(payload_sha256))
    tensors = _tensors(value, size - start, fail, unsupported)
    header = Header(
        info=value["profile"],
        base=value["base"],
        metrics=value["metrics"],
        target_count=value["target_count"],
        model_count=value["model_count"],
        version=2,
        path=path,
        file_bytes=size,
        sha256=digest,
        tensors=tensors,
    )
    return header, payload_sha256, start


def _read_text(fd: int, size: int, fail: Fail) -> tuple[str, str, int]:
    """The header's text without its padding, the hex digest at byte 24, and where the payload starts."""
    prefix = os.pread(fd, PREFIX_BYTES, 0)
    if len(prefix) < PREFIX_BYTES:
        fail("the file is cut short", field="header_bytes", expected=f"{PREFIX_BYTES} bytes or more", found=size)
    header_bytes = int.from_bytes(prefix[16:24], "little")
    if not 0 < header_bytes <= MAX_HEADER_BYTES or header_bytes % PREFIX_BYTES:
        expected = f"a multiple of {PREFIX_BYTES} up to {MAX_HEADER_BYTES}"
        fail("bad header size", field="header_bytes", expected=expected, found=header_bytes)
    if header_bytes > size - PREFIX_BYTES:
        fail("the file is cut short", field="header_bytes", expected=f"<= {size - PREFIX_BYTES}", found=header_bytes)
    if any(prefix[56:]):
        fail("reserved bytes are set", field="bytes 56 to 63", expected=0, found=prefix[56:].hex())
    raw = os.pread(fd, header_bytes, PREFIX_BYTES)
    digest, found = prefix[24:56].hex(), hashlib.sha256(raw).hexdigest()
    if digest != found:
        fail("the header was altered", field="sha256", expected=digest, found=found)
    stripped = raw.rstrip(b" ")
    fewest = align(len(stripped), PREFIX_BYTES)
    if fewest != header_bytes:
        fail("too much padding", field="header_bytes", expected=fewest, found=header_bytes)
    try:
        return stripped.decode("utf-8"), digest, PREFIX_BYTES + header_bytes
    except UnicodeDecodeError as error:
        fail("the header is not UTF-8", field="header", expected="UTF-8", found=f"a bad byte at {error.start}")


def _parse(text: str, fail: Fail) -> Json:
    """The header as an object; its text must be the canonical one."""
    # What parsing would take, estimated before it does: the text, its strings and a piece of it again; 72 bytes a
    # container, 36 a number.
    opened = text.count("[") + text.count("{")
    estimate = 3 * sys.getsizeof(text) + 72 * opened + 36 * text.count(",")
    if estimate > _MAX_PARSED_BYTES:
        fail("the header is too large", field="header", expected=f"<= {_MAX_PARSED_BYTES} bytes parsed", found=estimate)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        if not isinstance(value, dict):
            fail("the header is not an object", field="header", expected="an object", found=type(value).__name__)
        same = _is_canonical(value, text)
    except _DuplicateKey as error:
        fail("a key occurs twice", field="header", expected="unique keys", found=show(str(error)))
    except RecursionError:
        fail("the header is nested too deeply", field="header", expected="flat values", found="deep nesting")
    except ValueError as error:
        fail("the header is not JSON", field="header", expected="JSON", found=str(error)[:200])
    if not same:
        fail("the header is not canonical JSON", field="header", expected="its re-serialization", found="other text")
    return value


def _object(pairs: list[tuple[str, object]]) -> Json:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKey(key)
            seen.add(key)
    return out


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_canonical(value: Json, text: str) -> bool:
    """text == canonical(value), compared a slice at a time so that no second header is in memory."""
    at = 0
    for piece in _canonical_pieces(value):
        if not text.startswith(piece, at):
            return False
        at += len(piece)
    return at == len(text)


def _canonical_pieces(value: Json) -> Iterator[str]:
    before = "{"
    for key in sorted(value):
        yield f"{before}{canonical(key)}:"
        before = ","
        entry = value[key]
        if isinstance(entry, list) and entry:
            for start in range(0, len(entry), _SLICE):
                yield ("," if start else "[") + canonical(entry[start : start + _SLICE])[1:-1]
            yield "]"
        else:
            yield canonical(entry)
    yield "}" if value else "{}"


def _tensors(value: Json, available: int, fail: Fail, unsupported: Fail) -> dict[str, TensorInfo]:
    layouts, strings, entries = value["layouts"], value["strings"], value["tensors"]
    for field, table in (("layouts", layouts), ("strings", strings), ("tensors", entries)):
        if not isinstance(table, list):
            fail("wrong type", field=field, expected="a list", found=show(table))
    if len(entries) > MAX_TENSORS:
        fail("too many tensors", field="tensors", expected=f"<= {MAX_TENSORS}", found=len(entries))
    _check_strings(strings, fail)
    if len(layouts) > len(entries):
        fail("more layouts than tensors", field="layouts", expected=f"<= {len(entries)}", found=len(layouts))
    seen: set[str] = set()
    for index, entry in enumerate(layouts):
        check_layout(entry, f"layouts[{index}]", fail, unsupported)
        text = canonical(entry)
        if text in seen:
            fail("a layout is listed twice", field=f"layouts[{index}]", expected="unique layouts", found=show(text))
        seen.add(text)
    known = [tuple(layout) for layout in layouts]
    used = bytearray(len(strings))
    out: dict[str, TensorInfo] = {}
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    next_layout, offset, objects, last = 0, 0, 0, b""
    entries.reverse()
    for number in range(len(entries)):
        entry, where = entries.pop(), f"tensors[{number}]"
        name, layout_index, rows = _check_entry(entry, where, strings, used, known, fail)
        if layout_index > next_layout:
            fail("layouts are not in order of first use", field=where, expected=f"<= {next_layout}", found=layout_index)
        next_layout = max(next_layout, layout_index + 1)
        key = name.encode()
        if len(key) > MAX_NAME_BYTES:
            fail("bad name length", field=where, expected=f"1 to {MAX_NAME_BYTES} bytes", found=len(key))
        if key <= last:
            expected = f"a name after {show(last.decode())}"
            fail("tensors are not in order, or one occurs twice", field=where, expected=expected, found=show(name))
        last = key
        shape, layout = tuple(entry[2]), known[layout_index]
        shape = shapes.setdefault(shape, shape)
        check_fits(layout, shape, rows, name, fail)
        offset = align(offset, TENSOR_ALIGN)
        arrays = list(segments(layout, shape, rows))
        nbytes = arrays[-1].offset + arrays[-1].nbytes
        out[name] = TensorInfo(shape, layout, offset, nbytes, rows)
        offset += nbytes
        objects += object_bytes(name, len(shape), layout, len(arrays))
        if objects > MAX_OBJECT_BYTES:
            expected = f"<= {MAX_OBJECT_BYTES} bytes of objects"
            fail("too many small parts", field=where, expected=expected, found=f">= {objects}")
        if offset > available:
            fail("the file is cut short", field=name, expected=f"{offset} bytes of payload or more", found=available)
    if next_layout != len(known):
        fail("a layout is never used", field="layouts", expected=next_layout, found=len(known))
    if not all(used):
        fail("a string is never used", field=f"strings[{used.index(0)}]", expected="used by a tensor", found="unused")
    if offset != available:
        fail("the payload has the wrong length", field="payload", expected=offset, found=available)
    return out


def _check_strings(strings: list[object], fail: Fail) -> None:
    last: bytes | None = None
    for index, text in enumerate(strings):
        if not isinstance(text, str):
            fail("wrong type", field=f"strings[{index}]", expected="a string", found=show(text))
        try:
            key = text.encode()
        except UnicodeEncodeError:
            fail("not Unicode text", field=f"strings[{index}]", expected="UTF-8", found="a lone surrogate")
        if last is not None and key <= last:
            fail(
                "strings are not sorted",
                field=f"strings[{index}]",
                expected=f"after {show(last.decode())}",
                found=show(text),
            )
        last = key


def _check_entry(
    entry: object,
    where: str,
    strings: list[str],
    used: bytearray,
    layouts: list[tuple[Json, ...]],
    fail: Fail,
) -> tuple[str, int, int | None]:
    """(name, layout index, R or None) of a row `[i, j, shape, layout]` or `[i, j, shape, layout, R]` of the tensor table."""
    if not isinstance(entry, list) or len(entry) not in (4, 5):
        fail("bad tensor", field=where, expected="[i, j, shape, layout], and R with a rows part", found=show(entry))
    head, tail, shape, layout, *rest = entry
    for index, limit in ((head, len(strings)), (tail, len(strings)), (layout, len(layouts))):
        if type(index) is not int or not 0 <= index < limit:
            fail("index out of range", field=where, expected=f"an integer from 0 to {limit - 1}", found=show(index))
    wanted = 5 if any(part["kind"] == "rows" for part in layouts[layout]) else 4
    if len(entry) != wanted:
        fail("a number of rows is missing or extra", field=where, expected=f"{wanted} entries", found=show(entry))
    if rest and type(rest[0]) is not int:
        fail("bad number of rows", field=where, expected="an integer", found=show(rest[0]))
    check_shape(shape, where, fail)
    length = len(strings[head]) + len(strings[tail])
    if not 0 < length <= MAX_NAME_BYTES:
        fail("bad name length", field=where, expected=f"1 to {MAX_NAME_BYTES} bytes", found=length)
    name = strings[head] + strings[tail]
    if split_name(name) != (strings[head], strings[tail]):
        found = f"{show(strings[head])} + {show(strings[tail])}"
        fail("a name is split at the wrong place", field=where, expected=show(split_name(name)), found=found)
    used[head] = used[tail] = 1
    return name, layout, rest[0] if rest else None
