"""Two other formats that begin like version 1, with `BITDELTA` and u32 1, and then differ from it.

    the whitepaper's reference code   u32 length, JSON {model_name, compression_ratio}, then until the end: u32 length, name,
                                      u32 length, {u32 ndims, u32 dims, u32 numel, signs, one f32 | u32 n, n f32}
    a Rust variant                    u32 n, then n times: u32 length, name, u32 rank, u64 dims, f32 scale, u32 words, u32 signs

Signs are one flat row-major bit string, least significant bit first, in both.
"""

from __future__ import annotations

import json
import math
import struct

import numpy as np

from ...codec.pack import words
from ...codec.parts import DensePart, SignPart
from ...codec.scales import scale_shapes
from ...format.flat_bits import read_exactly, read_rows
from ...format.payload import check_scales
from ...format.source import Cursor
from ...format.spec import MAX_DIM, MAX_DIMS, MAX_NAME_BYTES, MAX_OBJECT_BYTES, MAX_TENSORS, DeltaTensor, Fail, show
from .foreign import MAX_JSON_BYTES, Entry, check_name, parameter_name

BLOCK = 128


def read_reference(fd: int, size: int, fail: Fail, unsupported: Fail) -> tuple[str, dict[str, Entry]]:
    """(model name, entries) of the whitepaper's reference code."""
    cursor = Cursor(fd, size, fail, at=12)
    try:
        header = json.loads(cursor.text("JSON", MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        fail("not JSON", field="JSON", expected="an object", found=str(error)[:80])
    if not isinstance(header, dict) or not isinstance(header.get("model_name", ""), str):
        fail("wrong type", field="JSON.model_name", expected="a string", found=type(header).__name__)
    room = _Room(size, unsupported)
    out: dict[str, Entry] = {}
    while not cursor.ended:
        name = check_name(parameter_name(cursor.text("name", MAX_NAME_BYTES)), out, fail)
        where = show(name)
        end = cursor.u32(f"{where}.length")
        if end > size - cursor.at:
            fail("the file is cut short", field=f"{where}.length", expected=f"{end} bytes", found=size - cursor.at)
        blob = Cursor(fd, cursor.at + end, fail, at=cursor.skip(end, where))
        shape = _shape(blob, where, 4, fail)
        numel = blob.u32(f"{where}.numel")
        if numel != math.prod(shape):
            fail("wrong number of elements", field=f"{where}.numel", expected=math.prod(shape), found=numel)
        bits_at = blob.skip(-(-numel // 8), f"{where}.signs")
        rest = cursor.at - blob.at
        count = 1 if rest == 4 else blob.u32(f"{where}.scales")
        if cursor.at - blob.at != 4 * count:
            expected = f"{count} scales"
            fail("bad number of scales", field=f"{where}.scales", expected=expected, found=f"{rest} bytes")
        scales = np.frombuffer(blob.take(4 * count, f"{where}.scales"), "<f4")
        out[name] = _tensor(fd, where, shape, bits_at, -(-numel // 8), scales, room, fail)
    if not out:
        fail("the file has no tensors", field="tensors", expected=">= 1", found=0)
    return header.get("model_name", ""), out


def read_rust(fd: int, size: int, fail: Fail, unsupported: Fail) -> dict[str, Entry]:
    """The entries of the Rust variant."""
    cursor = Cursor(fd, size, fail, at=12)
    count = cursor.u32("tensors")
    if count > MAX_TENSORS:
        fail("too many tensors", field="tensors", expected=f"<= {MAX_TENSORS}", found=count)
    room = _Room(size, unsupported)
    out: dict[str, Entry] = {}
    for _ in range(count):
        name = check_name(parameter_name(cursor.text("name", MAX_NAME_BYTES)), out, fail)
        where = show(name)
        shape = _shape(cursor, where, 8, fail)
        scales = np.frombuffer(cursor.take(4, f"{where}.scale"), "<f4")
        wanted = words(math.prod(shape))
        found = cursor.u32(f"{where}.words")
        if found != wanted:
            fail("wrong number of words", field=f"{where}.words", expected=wanted, found=found)
        bits_at = cursor.skip(4 * wanted, f"{where}.signs")
        out[name] = _tensor(fd, where, shape, bits_at, 4 * wanted, scales, room, fail)
    if not cursor.ended:
        fail("the file has trailing bytes", field="tensors", expected="its end", found=f"{size - cursor.at} bytes more")
    return out


class _Room:
    """What the parts may take: a shape such as [N, 1] grows 32 times when its rows are given whole words."""

    def __init__(self, size: int, unsupported: Fail) -> None:
        self.limit = size + MAX_OBJECT_BYTES
        self._left, self._unsupported = self.limit, unsupported

    def take(self, nbytes: int, where: str) -> None:
        self._left -= nbytes
        if self._left < 0:
            expected = f"<= {self.limit} bytes of memory"
            self._unsupported("the rows are too narrow", field=where, expected=expected, found="more")


def _shape(cursor: Cursor, where: str, width: int, fail: Fail) -> tuple[int, ...]:
    dims = cursor.u32(f"{where}.ndims")
    if not 1 <= dims <= MAX_DIMS:
        fail("bad shape", field=f"{where}.ndims", expected=f"1 to {MAX_DIMS}", found=dims)
    shape = struct.unpack(f"<{dims}{'I' if width == 4 else 'Q'}", cursor.take(width * dims, f"{where}.shape"))
    for dim in shape:
        if not 1 <= dim <= MAX_DIM:
            fail("bad dimension", field=f"{where}.shape", expected=f"1 to {MAX_DIM}", found=dim)
    return shape


def _tensor(
    fd: int,
    where: str,
    shape: tuple[int, ...],
    bits_at: int,
    bits_bytes: int,
    scales: np.ndarray,
    room: _Room,
    fail: Fail,
) -> DeltaTensor:
    """Signs and scales as one sign part, a vector as values."""
    numel, columns, rows = math.prod(shape), shape[-1], math.prod(shape[:-1])
    check_scales(scales, f"{where}.scales", fail)
    tail_at = numel // 8
    tail = int.from_bytes(read_exactly(fd, bits_at + tail_at, bits_bytes - tail_at) or b"", "little")
    if tail >> numel % 8:
        fail("pad bits are set", field=f"{where}.signs", expected=0, found="a bit past the last element")
    kinds = {1: "tensor"}
    by_block = rows * -(-columns // BLOCK)
    if len(shape) <= 2:
        kinds = {by_block: "block", shape[0]: "row"} | kinds
    elif len(shape) == 3:
        kinds = {shape[0]: "tensor"} | kinds
    kind = kinds.get(scales.size)
    if kind is None:
        fail("wrong number of scales", field=f"{where}.scales", expected=sorted(kinds), found=scales.size)
    room.take(800 + 4 * (numel if len(shape) == 1 else rows * words(columns)), where)
    bits = np.zeros((rows, 4 * words(columns)), np.uint8)
    if not read_rows(fd, bits_at, columns, bits):
        fail("the file shrank during reading", field=where, expected="signs", found="end of file")
    if len(shape) == 1:
        values = np.unpackbits(bits[0], count=numel, bitorder="little").astype("<f4") * 2 - 1
        values *= np.repeat(scales, BLOCK)[:numel] if kind == "block" else scales
        return DeltaTensor(shape, (DensePart(values),))
    if scales.size == 1 and len(shape) > 2:
        scales = np.repeat(scales, math.prod(shape[:-2]))
    (dims,) = scale_shapes(kind, shape, BLOCK if kind == "block" else None)
    packed = bits.view("<u4").reshape(*shape[:-1], words(columns))
    block = BLOCK if kind == "block" else None
    return DeltaTensor(shape, (SignPart(kind, block, packed, (np.ascontiguousarray(scales).reshape(dims),)),))
