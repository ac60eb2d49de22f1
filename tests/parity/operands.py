"""The arrays of a case: everything random is drawn from the case itself, so a case is the same wherever it runs."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from zen_mlx.kernels.operands import SignOperand

from .cases import Case, scale_block

DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


class Operands(NamedTuple):
    """What `dispatch.run` takes: x [..., K], 1 to 3 planes, y_bases [..., N] or None, slots [...] or None."""

    x: mx.array
    signs: list[SignOperand]
    y_bases: list[mx.array | None]
    slots: mx.array | None


def generator(*seeds: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(seeds).encode()))


def lead_shape(m: int, ndim: int) -> tuple[int, ...]:
    """m rows as ndim - 1 axes."""
    if ndim <= 2:
        return (m,)[: ndim - 1]
    first = next((d for d in (2, 3) if m and m % d == 0), 1)
    return (*(1,) * (ndim - 3), first, m // first)


def laid_out(values: np.ndarray, dtype: mx.Dtype, layout: str) -> mx.array:
    """`values` in `dtype` as a contiguous array, or as a view of a larger one whose other elements are NaN."""
    if layout == "contiguous":
        return mx.array(values).astype(dtype)
    if layout == "transposed":
        return mx.array(np.ascontiguousarray(values.T)).astype(dtype).T
    lead, k = values.shape[:-1], values.shape[-1]
    if layout == "strided":
        wide = np.full((*lead, 2 * k), np.nan, np.float32)
        wide[..., ::2] = values
        return mx.array(wide).astype(dtype)[..., ::2]
    rows = (lead[0] + 3, *lead[1:]) if lead else ()
    wide = np.full((*rows, k + 7), np.nan, np.float32)
    inner = (slice(2, 2 + lead[0]),) if lead else ()
    wide[(*inner, ..., slice(5, 5 + k))] = values
    return mx.array(wide).astype(dtype)[(*inner, ..., slice(5, 5 + k))]


def make_x(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """N(0, 1), or 100 + N(0, 1) times a power of two that keeps a sum over all columns in f16's range."""
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == "mean":
        x = (x + 100) * np.float32(2.0 ** -max(0, int(np.ceil(np.log2(shape[-1] / 128)))))
    return x


def make_slots(rng: np.random.Generator, index: str, m: int) -> tuple[int, np.ndarray | None]:
    """How many slots there are, and the id of each row."""
    if index == "none":
        return int(rng.integers(1, 3)), None
    if index == "experts":  # slot = profile * experts + expert
        return 24, (rng.integers(0, 3, m) * 8 + rng.integers(0, 8, m)).astype(np.int32)
    s = 4 if index in ("repeated", "unsorted") else int(rng.choice([1, 4]))
    slots = rng.integers(0, s, m).astype(np.int32)
    if index == "zeros":
        slots[:] = 0
    elif index == "negative":
        slots[m // 2 : m // 2 + 1] = -1
    elif index == "beyond":
        slots[: (m + 1) // 2] = rng.choice(np.array([s, s + 1, 2**31 - 1, -(2**31)], np.int32), (m + 1) // 2)
        slots[1:2] = s - 1
    elif index == "repeated":
        slots[:] = np.repeat(slots, 4)[:m]
        slots[:2] = 2
    elif index == "unsorted":
        slots[:2] = 3, 1
    return s, slots


def make_sign(rng: np.random.Generator, scale: str, bits: str, s: int, n: int, k: int) -> SignOperand:
    """A plane with the scales that `scale` names, row scales of either sign; the pad bits are random."""
    words = -(-k // 32)
    packed = rng.integers(0, 2**32, (s, n, words), dtype=np.uint32)
    if bits != "random":
        pad = np.zeros(words, np.uint32)
        if k % 32:
            pad[-1] = np.uint32(0xFFFFFFFF) << np.uint32(k % 32)
        packed = (packed & pad) | (~pad if bits == "ones" else np.uint32(0))
    names, size = scale.partition("block")[0], scale_block(scale)

    def draw(*shape: int) -> mx.array:
        return mx.array((rng.uniform(0.25, 1.0, shape) * rng.choice([-1.0, 1.0], shape)).astype(np.float32))

    row = draw(s, n) if "row" in names else None
    col = draw(s, k) if "col" in names else None
    return SignOperand(mx.array(packed), row, col, draw(s, n, -(-k // size)) if size else None)


def operands(case: Case) -> Operands:
    rng = generator(case)
    lead, dtype = lead_shape(case.m, case.ndim), DTYPES[case.dtype]
    x = laid_out(make_x(rng, (*lead, case.k), case.x), dtype, case.layout)
    s, slots = make_slots(rng, case.index, case.m)
    ns = [case.n, *rng.choice([1, 3, 7, 8, 9, 33], 2)][: case.groups]
    signs = [make_sign(rng, case.scale, case.bits, s, int(n), case.k) for n in ns]
    y_bases: list[mx.array | None] = [None] * case.groups
    if case.y_base != "none":
        base = dtype if case.y_base == "same" else mx.float16 if case.dtype == "f32" else mx.float32
        values = [rng.standard_normal((*lead, int(n))).astype(np.float32) * np.float32(case.k**0.5) for n in ns]
        y_bases = [laid_out(v, base, case.layout) for v in values]
    return Operands(x, signs, y_bases, None if slots is None else mx.array(slots.reshape(lead)))


def merge_operands(dtype: str, scale: str) -> list[tuple[mx.array, SignOperand]]:
    """(base [S, N, K], plane) of several shapes: partial words and blocks, more than one slot."""
    rng = generator("merge", dtype, scale)
    found = []
    for s, n, k in ((1, 3, 288), (3, 9, 100), (2, 1, 544)):
        base = mx.array(rng.standard_normal((s, n, k)).astype(np.float32)).astype(DTYPES[dtype])
        found.append((base, make_sign(rng, scale, "random", s, n, k)))
    return found
