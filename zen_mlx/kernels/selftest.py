"""Self-test: launch == reference on a small case, once per process and variant of a kernel, before its first use.

A variant is what a kernel is compiled for: dtypes of x and y, which scales are there, slots or none, how many
projections, and about how many rows there are of x and of the signs, for tiles follow from that. So nothing that has not
been seen to work on this machine ever computes an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from . import reference
from .operands import Launch, SignOperand

_S, _K = 2, 100
_NS, _MANY_NS = (9, 33, 5), (2050, 33, 5)
_MANY_N = 2048
_ROWS = (1, 2, 4, 8, 16, 32, 95, 97)  # tiles of x change at some of them
_TOLERANCE = {mx.float32: 1e-5, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}


class Variant(NamedTuple):
    """The form of one launch."""

    x: mx.Dtype
    y: mx.Dtype | None
    row: bool
    col: bool
    block: int
    slots: bool
    projections: int
    rows: int = 2
    many_n: bool = False


def variant(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> Variant:
    """The variant that a call belongs to."""
    sign, y = signs[0], y_bases[0]
    block = 0 if sign.block is None else reference.block_size(x.shape[-1], sign.block.shape[-1])
    return Variant(
        x.dtype,
        None if y is None else y.dtype,
        sign.row is not None,
        sign.col is not None,
        block,
        slots is not None,
        len(signs),
        next((rows for rows in _ROWS if x.shape[0] <= rows), _ROWS[-1]),
        sum(s.packed.shape[1] for s in signs) >= _MANY_N,
    )


def _sign(random: np.random.Generator, n: int, has_row: bool, has_col: bool, block: int) -> SignOperand:
    def scales(*shape: int) -> mx.array:
        return mx.array(random.uniform(0.5, 1.5, shape).astype(np.float32))

    words = random.integers(0, 2**32, (_S, n, -(-_K // 32)), dtype=np.uint32)
    words[..., -1] &= (1 << _K % 32) - 1
    return SignOperand(
        mx.array(words),
        scales(_S, n) if has_row else None,
        scales(_S, _K) if has_col else None,
        scales(_S, n, -(-_K // block)) if block else None,
    )


def _gap(found: mx.array, wanted: mx.array) -> float:
    """max |found - wanted| / max |wanted|; nan where one of them is not a number."""
    ours, theirs = np.array(found.astype(mx.float32)), np.array(wanted)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def error(launch: Launch, form: Variant) -> float:
    """max |y - y'| / max |y'| of `launch` against `reference` in f32, for a small case of `form`."""
    random = np.random.default_rng(0)
    m, ns = form.rows, (_MANY_NS if form.many_n else _NS)[: form.projections]
    x = mx.array(random.standard_normal((m, _K)).astype(np.float32)).astype(form.x)
    signs = [_sign(random, n, form.row, form.col, form.block) for n in ns]
    y_bases: list[mx.array | None] = [None] * form.projections
    if form.y is not None:
        y_bases = [mx.array(random.standard_normal((m, n)).astype(np.float32)).astype(form.y) for n in ns]
    slots = mx.array(np.resize(np.array([1, -1, 0], dtype=np.int32), m)) if form.slots else None
    found = launch(x, signs, y_bases, slots)
    wide = [None if y is None else y.astype(mx.float32) for y in y_bases]
    wanted = reference.launch(x.astype(mx.float32), signs, wide, slots)
    return float(np.max([_gap(y, truth) for y, truth in zip(found, wanted, strict=True)]))


def merge_error(merge: Callable[[mx.array, SignOperand], mx.array], dtype: mx.Dtype, present: Sequence[bool]) -> float:
    """max |w - w'| / max |w'| of `merge` against the reference; `present`: which of Sign's arrays are there."""
    _, has_row, has_col, has_block = present
    sign = _sign(np.random.default_rng(0), _NS[0], has_row, has_col, 32 if has_block else 0)
    base = mx.random.normal((_S, _NS[0], _K), key=mx.random.key(0)).astype(dtype)
    delta = reference.sign_dense(sign.packed, _K, sign.row, sign.col, sign.block)
    return _gap(merge(base, sign), base.astype(mx.float32) + delta)


def tolerance(form: Variant) -> float:
    """The largest acceptable `error` of a variant."""
    return tolerance_of(form.x if form.y is None else form.y)


def tolerance_of(dtype: mx.Dtype) -> float:
    """A few roundings of the output type: small against any mistake."""
    return _TOLERANCE[dtype]
