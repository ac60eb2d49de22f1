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
    packed = empty_bits(delta.shape)
    flat, out = delta.reshape(-1, delta.shape[-1]), packed.reshape(-1, packed.shape[-1])
    over_rows(lambda rows: pack_rows(flat[rows], out[rows]), *flat.shape)
    return packed


def empty_bits(shape: tuple[int, ...]) -> np.ndarray:
    """The u32 array, of zeros, that holds the signs of a delta of `shape`."""
    return np.zeros((*shape[:-1], words(shape[-1])), dtype="<u4")


def pack_rows(delta: np.ndarray, out: np.ndarray) -> None:
    """`pack_signs` of some rows [n, K] into their rows of u32 [n, ceil(K/32)]."""
    out.view(np.uint8)[:, : -(-delta.shape[-1] // 8)] = np.packbits(delta >= 0, axis=-1, bitorder="little")


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
