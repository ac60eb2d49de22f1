"""Which numbers a part may hold: pad bits 0, scales finite and >= 0, values finite, row numbers rising. Memory: a chunk."""

from __future__ import annotations

import numpy as np

from ..codec.pack import WORD_BITS
from .layout import Segment
from .spec import Fail

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
            fail("row numbers do not rise", field=where, expected=f"> {rows[at - 1]}", found=int(rows[at]))
    if int(rows[-1]) >= end:
        fail("a row past the last", field=where, expected=f"< {end}", found=int(rows[-1]))
