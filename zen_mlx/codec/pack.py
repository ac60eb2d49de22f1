"""packed[..., j // 32] bit j % 32 = (delta[..., j] >= 0): one sign per bit, least significant bit first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import ConfigError

WORD_BITS = 32
CHUNK_ELEMENTS = 1 << 18
"""Elements handled at a time: temporaries stay in the processor's cache whatever the tensor's size."""


def words(k: int) -> int:
    """ceil(k / 32): the u32 words that hold k signs."""
    return -(-k // WORD_BITS)


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cover `rows`, each of about `CHUNK_ELEMENTS` elements and at least one row."""
    step = max(1, CHUNK_ELEMENTS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def pack_signs(delta: np.ndarray) -> np.ndarray:
    """delta [..., K] of any float -> u32 [..., ceil(K/32)]; zero and -0.0 pack as 1 (+1), pad bits are 0."""
    if delta.ndim < 1 or delta.shape[-1] < 1:
        raise ConfigError(
            "signs need at least one column", field="shape", expected="[..., K], K >= 1", found=delta.shape
        )
    k = delta.shape[-1]
    flat = delta.reshape(-1, k)
    packed = np.zeros((flat.shape[0], words(k) * 4), dtype=np.uint8)
    used = -(-k // 8)
    for rows in row_chunks(*flat.shape):
        packed[rows, :used] = np.packbits(flat[rows] >= 0, axis=-1, bitorder="little")
    return packed.view("<u4").reshape(*delta.shape[:-1], words(k))


def unpack_signs(packed: np.ndarray, k: int) -> np.ndarray:
    """u32 [..., ceil(k/32)] -> float32 [..., k] of +1 and -1."""
    if packed.ndim < 1 or packed.shape[-1] != words(k):
        raise ConfigError("wrong number of sign words", field="bits", expected=words(k), found=packed.shape)
    flat = np.ascontiguousarray(packed, dtype="<u4").reshape(-1, words(k)).view(np.uint8)
    signs = np.empty((flat.shape[0], k), dtype=np.float32)
    for rows in row_chunks(*signs.shape):
        signs[rows] = np.unpackbits(flat[rows], axis=-1, count=k, bitorder="little")
    signs *= 2
    signs -= 1
    return signs.reshape(*packed.shape[:-1], k)
