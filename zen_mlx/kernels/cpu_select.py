"""out[m,n] = row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * xs[m,k], s = slots[m]: compiled by numba.

The inner loop is written as LLVM vectors, which become masked blends on AVX-512, and/xor on AVX2 and NEON: a word of
signs turns block into +-block in registers, and one fused multiply-add a vector serves every row of x in the tile. So
a weight costs a blend once and then what a plain matmul costs; no unpacked copy exists, not even in the cache.

Each output is summed in one order, lane by lane and then across, whatever tile it falls into: rows do not depend on
their neighbours. Signs multiply before anything is summed, so a large mean of x costs no accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()

# Tiles fill the vector registers with sums: 16 of 32 with AVX-512; elsewhere 8 of 16 (AVX2) or 16 of 32 (NEON).
_AVX512 = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]
_LANES = 16 if _AVX512 else 8
_SIGN_BITS = ir.Constant(ir.VectorType(_I32, _LANES), [1 << 31] * _LANES)
_FLOATS, _INTS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)

ROWS = 4
"""Rows of a sign plane that a tile covers at most: work is cut at multiples of it."""
_WIDE_ROWS = ROWS if _AVX512 else 2
_COLS = 4


def _splat(build: Any, value: Any, vector: Any) -> Any:
    first = build.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return build.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(_INTS, [0] * _LANES))


def _signed(build: Any, word: Any, negative: Any, first: int) -> Any:
    """[negative, -negative][bit] for the bits first, first + 1, ... of word; one bit a lane."""
    if _AVX512:  # the bits are the mask
        bits = build.trunc(build.lshr(word, ir.Constant(_I32, first)), ir.IntType(_LANES))
        mask = build.bitcast(bits, ir.VectorType(ir.IntType(1), _LANES))
        return build.bitcast(build.select(mask, build.xor(negative, _SIGN_BITS), negative), _FLOATS)
    to_top = ir.Constant(_INTS, [31 - first - lane for lane in range(_LANES)])
    bits = build.and_(build.shl(_splat(build, word, _INTS), to_top), _SIGN_BITS)
    return build.bitcast(build.xor(negative, bits), _FLOATS)


def _across(build: Any, vector: Any) -> Any:
    """The sum of a vector's lanes, halving it."""
    width = _LANES
    while width > 1:
        width //= 2
        none, half = ir.Constant(vector.type, ir.Undefined), ir.VectorType(_I32, width)
        low = build.shuffle_vector(vector, none, ir.Constant(half, list(range(width))))
        high = build.shuffle_vector(vector, none, ir.Constant(half, list(range(width, 2 * width))))
        vector = build.fadd(low, high)
    return build.extract_element(vector, ir.Constant(_I32, 0))


def _prefetch(build: Any, rows: Sequence[Any], words: Any) -> None:
    """Ask for the signs two tiles on: short rows end before the processor has guessed that they go on."""
    byte = ir.IntType(8).as_pointer()
    ask = build.module.declare_intrinsic("llvm.prefetch.p0", (), ir.FunctionType(ir.VoidType(), [byte, *[_I32] * 3]))
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    ahead = build.mul(words, ir.Constant(_I64, 2 * len(rows)))
    line = ir.Constant(_I64, 16)
    with cgutils.for_range_slice(build, ir.Constant(_I64, 0), words, line, intp=_I64) as (word, _):
        for row in rows:
            build.call(ask, [build.bitcast(build.gep(row, [build.add(ahead, word)]), byte), read, keep, data])


def _tile_typed(
    _typing: Any, words_at: Any, blocks_at: Any, xs_at: Any, words: Any, block_words: Any, sums_at: Any
) -> Any:
    """sums[r,c] = sum_k sign[r,k] * block[r,k//B] * xs[c,k], f32.

    Addresses: words_at and blocks_at one a row of signs, xs_at one a row of x, sums_at of f32 [R, C].
    words u32 a row of signs; block_words = B / 32. xs has 32 * words values a row, zeros beyond K.
    """
    signature = types.void(words_at, blocks_at, xs_at, types.intp, types.intp, types.intp)

    def generate(context: Any, build: Any, _signature: Any, args: Any) -> Any:
        def pointers(addresses: Any, count: int, to: Any) -> list[Any]:
            return [build.inttoptr(build.extract_value(addresses, i), to.as_pointer()) for i in range(count)]

        rows = pointers(args[0], words_at.count, _I32)
        blocks = pointers(args[1], blocks_at.count, _I32)
        xs = pointers(args[2], xs_at.count, _F32)
        words, block_words, one = args[3], args[4], ir.Constant(_I64, 1)
        fma = build.module.declare_intrinsic(f"llvm.fmuladd.v{_LANES}f32", (), ir.FunctionType(_FLOATS, [_FLOATS] * 3))
        zeros = ir.Constant(_FLOATS, [0.0] * _LANES)
        allocate: Any = cgutils.alloca_once
        totals = [[allocate(build, _FLOATS) for _ in xs] for _ in rows]
        for row in totals:
            for total in row:
                build.store(zeros, total)

        _prefetch(build, rows, words)
        count = build.sdiv(build.sub(build.add(words, block_words), one), block_words)
        with cgutils.for_range(build, count, intp=_I64) as block:
            negative = [
                build.xor(_splat(build, build.load(build.gep(p, [block.index])), _INTS), _SIGN_BITS) for p in blocks
            ]
            start = build.mul(block.index, block_words)
            stop = build.add(start, block_words)
            stop = build.select(build.icmp_signed("<", stop, words), stop, words)
            with cgutils.for_range_slice(build, start, stop, one, intp=_I64) as (j, _):
                word = [build.load(build.gep(p, [j])) for p in rows]
                for first in range(0, 32, _LANES):
                    at = build.add(build.mul(j, ir.Constant(_I64, 32)), ir.Constant(_I64, first))
                    values = [build.load(build.bitcast(build.gep(p, [at]), _FLOATS.as_pointer()), align=4) for p in xs]
                    for r, row in enumerate(totals):
                        weight = _signed(build, word[r], negative[r], first)
                        for total, value in zip(row, values, strict=True):
                            build.store(build.call(fma, [weight, value, build.load(total)]), total)

        sums = build.inttoptr(args[5], _F32.as_pointer())
        for i, total in enumerate(total for row in totals for total in row):
            build.store(_across(build, build.load(total)), build.gep(sums, [ir.Constant(_I64, i)]))
        return context.get_dummy_value()

    return signature, generate


_tile: Any = intrinsic(_tile_typed)


# Past the last row the last one is computed again, and not stored.
@njit(inline="always")
def _two(at, stride, n, last):  # type: ignore[no-untyped-def]  # for numba
    return at + stride * n, at + stride * min(n + 1, last)


@njit(inline="always")
def _four(at, stride, n, last):  # type: ignore[no-untyped-def]  # for numba
    return (*_two(at, stride, n, last), *_two(at, stride, min(n + 2, last), last))


_wide = _four if _AVX512 else _two


def _select(packed, row, block, block_words, xs, slots, order, out, start, stop):  # type: ignore[no-untyped-def]  # for numba
    """The module's equation for the rows m in `order` and start <= n < stop.

    packed u32 [S,N,W], row f32 [S,N], block f32 [S,N,blocks], the last axes of packed and block without gaps;
    xs f32 [M,32W]; slots i32 [M]; order i64 [..], rows of one slot side by side; out f32 [M,N].
    """
    words, x_stride, last = packed.shape[2], xs.strides[0], stop - 1
    word_stride, block_stride = packed.strides[1], block.strides[1]
    sums = np.empty(ROWS * _COLS, np.float32)
    to = sums.ctypes.data
    first = 0
    while first < len(order):
        slot = slots[order[first]]
        count = 1
        while count < _COLS and first + count < len(order) and slots[order[first + count]] == slot:
            count += 1
        signs = packed.ctypes.data + slot * packed.strides[0]
        blocks = block.ctypes.data + slot * block.strides[0]
        x0 = xs.ctypes.data + x_stride * order[first]
        x1 = xs.ctypes.data + x_stride * order[first + min(1, count - 1)]
        x2 = xs.ctypes.data + x_stride * order[first + min(2, count - 1)]
        x3 = xs.ctypes.data + x_stride * order[first + count - 1]
        rows = ROWS if count == 1 else _WIDE_ROWS
        for n in range(start, stop, rows):
            if count == 1:
                ws, bs = _four(signs, word_stride, n, last), _four(blocks, block_stride, n, last)
                _tile(ws, bs, (x0,), words, block_words, to)
            else:
                wws, wbs = _wide(signs, word_stride, n, last), _wide(blocks, block_stride, n, last)
                if count == 2:
                    _tile(wws, wbs, (x0, x1), words, block_words, to)
                elif count == 3:
                    _tile(wws, wbs, (x0, x1, x2), words, block_words, to)
                else:
                    _tile(wws, wbs, (x0, x1, x2, x3), words, block_words, to)
            for r in range(min(rows, stop - n)):
                for c in range(count):
                    out[order[first + c], n + r] = row[slot, n + r] * sums[r * count + c]
        first += count


@cache
def select() -> Callable[..., None]:
    """`_select` compiled for its one signature, without the interpreter's lock; kept on disk where that can be written.

    The first call in a process takes 0.1 s with the code on disk, 0.9 s without.
    """
    signature = "void(u4[:,:,:],f4[:,:],f4[:,:,:],i8,f4[:,::1],i4[::1],i8[::1],f4[:,::1],i8,i8)"
    try:
        return njit(signature, nogil=True, cache=True)(_select)
    except Exception:  # no place for numba's cache, a full disk, a damaged file; what is wrong here is raised below
        return njit(signature, nogil=True)(_select)
