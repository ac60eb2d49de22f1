"""payload bytes -> one buffer per tensor, hashed on the way: pieces of 4 MiB, read and hashed by a few threads.

A piece is scattered by `preadv` straight into the tensors' buffers, so no byte is copied; the gaps between go to a
scratch that must be zero. Knows nothing about what a tensor holds.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .spec import PIECE_BYTES, Fail, TensorInfo

_MAX_VECTORS = 512
"""Buffers per `preadv`; the system's own limit is 1024."""


def read_payload(
    fd: int, start: int, size: int, tensors: Mapping[str, TensorInfo], sha256: str, fail: Fail
) -> dict[str, np.ndarray]:
    """u8 buffers by name: `nbytes` from `start + offset` each. The layout was checked against `size` before.

    sha256: of the concatenated digests of the pieces. Errors: `fail` for another digest, a gap between tensors
    that is not zero, or a file that became shorter.
    """
    infos = list(tensors.values())
    buffers = [np.empty(info.nbytes, dtype=np.uint8) for info in infos]
    offsets = [info.offset for info in infos]

    def piece(begin: int) -> tuple[bytes, int]:
        """(digest, first gap byte that is set or -1) of the piece at `begin`."""
        end = min(size, begin + PIECE_BYTES)
        digest, gap_at, at = hashlib.sha256(), -1, begin
        index = max(0, bisect.bisect_right(offsets, begin) - 1)
        while at < end:
            vectors: list[memoryview] = []
            gaps: list[tuple[int, memoryview]] = []
            first = at
            while at < end and len(vectors) < _MAX_VECTORS:
                inside = at - offsets[index]
                if inside < infos[index].nbytes:
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
    return dict(zip(tensors, buffers, strict=True))


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
