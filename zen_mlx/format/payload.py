"""payload bytes -> one buffer per tensor: pieces of 4 MiB, read and hashed by a few threads.

`preadv` scatters a piece straight into the buffers, so no byte is copied; the gaps between them go to a scratch that must
be zero. The numbers that a part may hold are checked in chunks: pad bits 0, scales finite and >= 0, values finite, row
numbers rising.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..codec.pack import WORD_BITS
from .layout import Segment
from .spec import PIECE_BYTES, Fail, TensorInfo

_SHARED_BYTES = 1 << 16
"""Neighbours that fit in this together share a buffer: a file of thousands of tiny tensors stays small in memory."""
_MAX_VECTORS = 512
"""Buffers per `preadv`; the system's own limit is 1024."""


def read_payload(
    fd: int, start: int, size: int, tensors: Mapping[str, TensorInfo], sha256: str, fail: Fail
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, u8 buffer) of each tensor in file order; everything is read and hashed before the first is given out.

    The layout was checked against `size` before. sha256: of the concatenated digests of the pieces.
    Errors: `fail` for another digest, a gap between tensors that is not zero, or a file that shrank.
    """
    offsets, buffers, shares = _regions(tensors)

    def piece(begin: int) -> tuple[bytes, int]:
        """(digest, first gap that is not zero or -1) of the piece at `begin`."""
        end = min(size, begin + PIECE_BYTES)
        digest, gap_at, at = hashlib.sha256(), -1, begin
        index = bisect.bisect_right(offsets, begin) - 1
        while at < end:
            vectors: list[memoryview] = []
            gaps: list[tuple[int, memoryview]] = []
            first = at
            while at < end and len(vectors) < _MAX_VECTORS:
                inside = at - offsets[index]
                if inside < buffers[index].nbytes:
                    view = buffers[index].data[inside : inside + end - at]
                else:
                    index += 1
                    view = memoryview(bytearray(min(end, offsets[index]) - at))
                    gaps.append((at, view))
                vectors.append(view)
                at += len(view)
            if not _read_exactly(fd, vectors, start + first):
                fail("the file shrank during reading", field="payload", expected=size, found=f"< {at}")
            for view in vectors:
                digest.update(view)
            for where, view in gaps:
                if gap_at < 0 and any(view):
                    gap_at = where
        return digest.digest(), gap_at

    total, gap = hashlib.sha256(), -1
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        for digest, gap_at in pool.map(piece, range(0, size, PIECE_BYTES)):
            total.update(digest)
            gap = gap_at if gap < 0 else gap
    if total.hexdigest() != sha256:
        fail("the payload was altered", field="payload_sha256", expected=sha256, found=total.hexdigest())
    if gap >= 0:
        fail("a gap between tensors is not zero", field="payload", expected=0, found=f"set bytes after {gap}")
    offsets.reverse()
    buffers.reverse()
    return _hand_out(tensors, offsets, buffers, shares, fail)


def _regions(tensors: Mapping[str, TensorInfo]) -> tuple[list[int], list[np.ndarray], list[int]]:
    """(offset, buffer, number of tensors) of each region: one tensor, or neighbours that share."""
    offsets: list[int] = []
    ends: list[int] = []
    shares: list[int] = []
    for info in tensors.values():
        end = info.offset + info.nbytes
        if offsets and end - offsets[-1] <= _SHARED_BYTES:
            ends[-1] = end
            shares[-1] += 1
        else:
            offsets.append(info.offset)
            ends.append(end)
            shares.append(1)
    buffers = [np.empty(end - offset, dtype=np.uint8) for offset, end in zip(offsets, ends, strict=True)]
    return offsets, buffers, shares


def _hand_out(
    tensors: Mapping[str, TensorInfo], offsets: list[int], buffers: list[np.ndarray], shares: list[int], fail: Fail
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors' slices of the regions, which are dropped on the way; `offsets` and `buffers` come last first."""
    names = iter(tensors)
    for share in shares:
        offset, buffer = offsets.pop(), buffers.pop()
        last = 0
        for _ in range(share):
            name = next(names)
            begin = tensors[name].offset - offset
            if begin > last and buffer[last:begin].any():
                fail("a gap between tensors is not zero", field=name, expected=0, found="set bytes before it")
            last = begin + tensors[name].nbytes
            yield name, buffer[begin:last]


def _read_exactly(fd: int, vectors: list[memoryview], offset: int) -> bool:
    """Fill all of `vectors` from `offset` on; False at the end of the file."""
    rest = list(vectors)
    while rest:
        got = os.preadv(fd, rest, offset)
        if got <= 0:
            return False
        offset += got
        while rest and got >= len(rest[0]):
            got -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][got:]
    return True


_CHUNK = 1 << 20


def check_numbers(array: np.ndarray, segment: Segment, name: str, fail: Fail) -> None:
    """What `segment.rule` asks of `array`, of the tensor `name`."""
    where = f"{name}.{segment.role}"
    if segment.rule == "bits":
        check_bits(array, segment.limit, where, fail)
    elif segment.rule == "scales":
        check_scales(array, where, fail)
    elif segment.rule == "rows":
        check_rows(array, segment.limit, where, fail)
    else:
        check_dense(array, where, fail)


def check_bits(bits: np.ndarray, count: int, where: str, fail: Fail) -> None:
    """The bits past the first `count` of each row are 0; they are all in its last word."""
    used = count % WORD_BITS
    if used == 0:
        return
    last = bits.reshape(-1, bits.shape[-1])[:, -1]
    for start in range(0, len(last), _CHUNK):
        if int(np.bitwise_or.reduce(last[start : start + _CHUNK])) >> used:
            fail("pad bits are set", field=where, expected=0, found="a bit past the last column")


def check_scales(scales: np.ndarray, where: str, fail: Fail) -> None:
    """Every scale is finite and >= 0."""
    flat = scales.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        some = flat[start : start + _CHUNK]
        if not (np.isfinite(some).all() and some.min() >= 0):
            bad = some[~(np.isfinite(some) & (some >= 0))][0]
            fail("bad scale", field=where, expected="a finite number >= 0", found=str(bad))


def check_dense(values: np.ndarray, where: str, fail: Fail) -> None:
    """Every value is finite."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        some = flat[start : start + _CHUNK]
        if not np.isfinite(some).all():
            fail(
                "a value is not finite", field=where, expected="a finite number", found=str(some[~np.isfinite(some)][0])
            )


def check_rows(rows: np.ndarray, end: int, where: str, fail: Fail) -> None:
    """Row numbers rise strictly and end before `end`."""
    for start in range(0, rows.size, _CHUNK):
        some = rows[max(0, start - 1) : start + _CHUNK]
        if not (some[1:] > some[:-1]).all():
            at = start + int((some[1:] <= some[:-1]).argmax()) + (start == 0)
            fail("row numbers do not increase", field=where, expected=f"> {rows[at - 1]}", found=int(rows[at]))
    if int(rows[-1]) >= end:
        fail("a row number is past the last row", field=where, expected=f"< {end}", found=int(rows[-1]))
