"""value = (code - (2^bits - 1) / 2) * step: 2^bits evenly spaced values around 0, none of them 0.

Codes of 1, 2, 4 or 8 bits are packed like signs, the first code lowest; a 1-bit code is a sign and its step is 2. The
step is the one of least squares: the best of a grid of clipping points, each improved by the step its codes ask for.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .floats import F16_LARGEST
from .pack import words

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
