"""Version 1 keeps signs as one flat row-major bit string; in memory each row begins at a u32 word.

    row r of K columns = bits [r * K, (r + 1) * K) of the flat string, least significant bit first

Eight rows are K whole bytes, so rows r, r + 8, r + 16.. share one shift: that is what makes K % 8 != 0 fast. All work
goes in chunks, for a hostile file may claim one row of a billion columns or a billion rows of one.
"""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np

_CHUNK_BYTES = 1 << 20


def read_rows(fd: int, offset: int, columns: int, out: np.ndarray) -> bool:
    """Fill zeroed u8 [rows, 4 * ceil(columns/32)] from the bit string at `offset`; False when the file ends first."""
    row_bytes = -(-columns // 8)
    if columns % 8 == 0:
        ok = _copy_whole(fd, offset, out, row_bytes)
    elif columns <= _CHUNK_BYTES:
        ok = _copy_groups(fd, offset, out, columns)
    else:
        ok = all(_copy_long_row(fd, offset, out[row], row * columns, row_bytes) for row in range(len(out)))
    if columns % 8:
        out[:, row_bytes - 1] &= (1 << columns % 8) - 1
    return ok


def write_rows(bits: np.ndarray, columns: int, file: BinaryIO) -> None:
    """Append u32 [rows, ceil(columns/32)] to `file` as one bit string, padded with zero bits to a byte."""
    flat = np.ascontiguousarray(bits, dtype="<u4").view(np.uint8)
    step = 8 * max(1, _CHUNK_BYTES // columns)
    for start in range(0, len(flat), step):
        some = flat[start : start + step]
        if columns % 8 == 0:
            file.write(np.ascontiguousarray(some[:, : columns // 8]).data)
        else:
            loose = np.unpackbits(some, axis=1, count=columns, bitorder="little")
            file.write(np.packbits(loose, bitorder="little").data)


def read_exactly(fd: int, offset: int, count: int) -> bytes | None:
    """`count` bytes at `offset`, or None when the file ends first."""
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            return None
        data += more
    return data


def _copy_whole(fd: int, offset: int, out: np.ndarray, row_bytes: int) -> bool:
    """Rows of whole bytes."""
    step = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(out), step):
        count = min(step, len(out) - start)
        for left in range(0, row_bytes, _CHUNK_BYTES):
            width = min(_CHUNK_BYTES, row_bytes - left)
            # More than one row at a time only where a row is shorter than a chunk, so `left` is 0.
            data = read_exactly(fd, offset + start * row_bytes + left, count * width)
            if data is None:
                return False
            out[start : start + count, left : left + width] = np.frombuffer(data, np.uint8).reshape(count, width)
    return True


def _copy_groups(fd: int, offset: int, out: np.ndarray, columns: int) -> bool:
    """Groups of eight rows; the rows of one place in their groups share a shift."""
    row_bytes = -(-columns // 8)
    step = max(1, _CHUNK_BYTES // columns)
    groups = -(-len(out) // 8)
    for start in range(0, groups, step):
        count = min(step, groups - start)
        rows = out[start * 8 : (start + count) * 8]
        data = read_exactly(fd, offset + start * columns, -(-len(rows) * columns // 8))
        if data is None:
            return False
        # Room for the last row's read past its end; those bits are cut off afterwards.
        raw = np.frombuffer(data.ljust(count * columns + row_bytes + 1, b"\0"), np.uint8)
        for place in range(min(8, len(rows))):
            byte, shift = divmod(place * columns, 8)
            picked = rows[place::8]
            low, high = (
                np.lib.stride_tricks.as_strided(raw[byte + one :], (len(picked), row_bytes), (columns, 1))
                for one in (0, 1)
            )
            picked[:, :row_bytes] = (low >> shift) | (high << (8 - shift)) if shift else low
    return True


def _copy_long_row(fd: int, offset: int, row: np.ndarray, first_bit: int, row_bytes: int) -> bool:
    """One row longer than a chunk."""
    byte, shift = divmod(first_bit, 8)
    for left in range(0, row_bytes, _CHUNK_BYTES):
        width = min(_CHUNK_BYTES, row_bytes - left)
        data = os.pread(fd, width + 1, offset + byte + left)
        if len(data) < width:
            return False
        raw = np.frombuffer(data.ljust(width + 1, b"\0"), np.uint8)
        row[left : left + width] = (raw[:-1] >> shift) | (raw[1:] << (8 - shift)) if shift else raw[:-1]
    return True
