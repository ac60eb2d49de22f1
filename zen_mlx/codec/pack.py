"""packed[..., j // 32] bit j % 32 = (delta[..., j] >= 0): one sign per bit, least significant bit first."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .chunks import over_rows
from .difference import Delta

WORD_BITS = 32


def words(k: int) -> int:
    """ceil(k / 32): the u32 words that hold k signs."""
    return -(-k // WORD_BITS)


def pack_signs(delta: Delta) -> np.ndarray:
    """delta [..., K] of any float -> u32 [..., ceil(K/32)]; zero and -0.0 pack as 1 (+1), pad bits are 0."""
    if delta.ndim < 1 or delta.shape[-1] < 1:
        raise ConfigError(
            "signs need at least one column", field="shape", expected="[..., K], K >= 1", found=delta.shape
        )
    k = delta.shape[-1]
    flat = delta.reshape(-1, k)
    packed = np.zeros((flat.shape[0], words(k) * 4), dtype=np.uint8)
    used = -(-k // 8)

    def pack(rows: slice) -> None:
        packed[rows, :used] = np.packbits(flat[rows] >= 0, axis=-1, bitorder="little")

    over_rows(pack, *flat.shape)
    return packed.view("<u4").reshape(*delta.shape[:-1], words(k))


def unpack_signs(packed: np.ndarray, k: int) -> np.ndarray:
    """u32 [..., ceil(k/32)] -> float32 [..., k] of +1 and -1."""
    if packed.ndim < 1 or packed.shape[-1] != words(k):
        raise ConfigError("wrong number of sign words", field="bits", expected=words(k), found=packed.shape)
    flat = np.ascontiguousarray(packed, dtype="<u4").reshape(-1, words(k)).view(np.uint8)
    signs = np.empty((flat.shape[0], k), dtype=np.float32)

    def unpack(rows: slice) -> None:
        some = signs[rows]
        some[:] = np.unpackbits(flat[rows], axis=-1, count=k, bitorder="little")
        some *= 2
        some -= 1

    over_rows(unpack, *signs.shape)
    return signs.reshape(*packed.shape[:-1], k)
