"""payload bytes -> one buffer per tensor, hashed on the way: pieces of 4 MiB, read and hashed by a few threads.

A piece is scattered by `preadv` straight into the buffers, so no byte is copied; the gaps between them go to a scratch
that must be zero. Knows nothing about what a tensor holds.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

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
    Errors: `fail` for another digest, a gap between tensors that is not zero, or a file that became shorter.
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
                fail("the file became shorter while it was read", field="payload", expected=size, found=f"< {at}")
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
