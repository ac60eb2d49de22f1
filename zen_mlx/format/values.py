"""Which numbers a part may hold: pad bits 0, scales finite and >= 0, dense values finite. Memory: one chunk."""

from __future__ import annotations

import numpy as np

from ..codec.pack import WORD_BITS
from .spec import Fail

_CHUNK = 1 << 20


def check_bits(bits: np.ndarray, columns: int, where: str, fail: Fail) -> None:
    """The bits past `columns` in each row's last word are 0."""
    used = columns % WORD_BITS
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
