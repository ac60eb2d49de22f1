"""Sign packing: packed[..., j // 32] bit j % 32 = (delta[..., j] >= 0), and codes of 1, 2, 4 or 8 bits packed likewise.

    value = (code - (2^bits - 1) / 2) * step: 2^bits evenly spaced values around 0, none of them 0

The first code is lowest; a 1-bit code is a sign and its step is 2. The step is the one of least squares: the best of a
grid of clipping points, each improved by the step its codes ask for.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .arrays import F16_LARGEST, over_rows
from .difference import Delta

WORD_BITS = 32


def words(k: int) -> int:
    """ceil(k / 32): the u32 words that hold k signs."""
    return -(-k // WORD_BITS)


def pack_signs(delta: Delta) -> np.ndarray:
    """delta [..., K] of any float -> u32 [..., ceil(K/32)]; zero and -0.0 pack as 1 (+1), pad bits are 0."""
    if delta.ndim < 1 or delta.shape[-1] < 1:
        raise ConfigError("signs need a column", field="shape", expected="[..., K], K >= 1", found=delta.shape)
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


CODE_BITS = (1, 2, 4, 8)
_CLIPPING = np.geomspace(1.0, 0.22, 20, dtype=np.float32)
"""Shares of the largest magnitude that the outermost values may lie at: a normal column's best is 0.43 for 2 bits."""


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """u8 codes [.., n] -> u32 [.., ceil(n * bits / 32)], pad bits 0."""
    _check(bits)
    n, each = codes.shape[-1], 8 // bits
    out = np.zeros((*codes.shape[:-1], words(n * bits) * 4), dtype=np.uint8)
    for place in range(each):
        some = codes[..., place::each]
        out[..., : some.shape[-1]] |= some << np.uint8(bits * place)
    return out.view("<u4")


def unpack_codes(packed: np.ndarray, n: int, bits: int) -> np.ndarray:
    """u32 [.., ceil(n * bits / 32)] -> u8 codes [.., n]."""
    _check(bits)
    if packed.shape[-1:] != (words(n * bits),):
        raise ConfigError("wrong number of code words", field="codes", expected=words(n * bits), found=packed.shape)
    raw, each = np.ascontiguousarray(packed, dtype="<u4").view(np.uint8), 8 // bits
    out = np.empty((*packed.shape[:-1], n), dtype=np.uint8)
    for place in range(each):
        some = out[..., place::each]
        np.bitwise_and(raw[..., : some.shape[-1]] >> np.uint8(bits * place), np.uint8(2**bits - 1), out=some)
    return out


def code_values(packed: np.ndarray, n: int, bits: int) -> np.ndarray:
    """float32 [.., n]: code - (2^bits - 1) / 2, twice that (a sign) for 1 bit; still without the step."""
    values = unpack_codes(packed, n, bits).astype(np.float32)
    values -= (2**bits - 1) / 2
    if bits == 1:
        values *= 2
    return values


def flip_codes(packed: np.ndarray, used: int) -> np.ndarray:
    """Each row's first `used` bits inverted: code -> 2^bits - 1 - code, which is value -> -value, exactly."""
    mask = np.full(words(used), 0xFFFFFFFF, dtype="<u4")
    if used % 32:
        mask[-1] = (1 << used % 32) - 1
    flipped: np.ndarray = packed ^ mask
    return flipped


def quantize(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(f16 steps [..], u8 codes [.., n]) of float32 [.., n], for 2, 4 or 8 bits: one step for each row of n."""
    if bits not in CODE_BITS[1:]:
        raise ConfigError("codes with a step have 2, 4 or 8 bits", field="bits", expected=CODE_BITS[1:], found=bits)
    top = np.abs(values).max(axis=-1, initial=0.0)
    steps = np.zeros(top.shape, dtype=np.float16)
    codes = _nearest(values, steps, bits)
    lost = np.square(values).sum(axis=-1)
    for share in _CLIPPING:
        trial = top * (share * np.float32(2 / (2**bits - 1)))
        levels = _nearest(values, trial, bits).astype(np.float32) - np.float32((2**bits - 1) / 2)
        trial = np.einsum("...n,...n->...", values, levels) / np.einsum("...n,...n->...", levels, levels)
        rounded = np.minimum(trial, np.float32(F16_LARGEST)).astype(np.float16)
        found = _nearest(values, rounded, bits)
        decoded = (found.astype(np.float32) - np.float32((2**bits - 1) / 2)) * rounded.astype(np.float32)[..., None]
        rest = np.square(values - decoded).sum(axis=-1)
        better = rest < lost
        lost[better], steps[better], codes[better] = rest[better], rounded[better], found[better]
    return steps, codes


def _nearest(values: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    """The codes whose values lie nearest; where a step is 0, some code."""
    safe = np.where(steps > 0, steps, 1).astype(np.float32)[..., None]
    codes = np.floor(values / safe)
    codes += 2 ** (bits - 1)
    return np.clip(codes, 0, 2**bits - 1, out=codes).astype(np.uint8)


def _check(bits: int) -> None:
    if bits not in CODE_BITS:
        raise ConfigError("codes have 1, 2, 4 or 8 bits", field="bits", expected=CODE_BITS, found=bits)
