"""The sign product on the CPU: `select` reads the packed words in vector registers; see `cpu_select`. f32 sums.

A compiled kernel sees host arrays only: operands are evaluated here, and where MLX traces, `NotEvaluable` is raised.
Without numba (an optional dependency) KERNELS is empty and UNAVAILABLE says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from . import reference
from .operands import Launch, NotEvaluable, SignOperand

UNAVAILABLE: str | None = None
try:
    from . import cpu_select
except ImportError as error:
    UNAVAILABLE = f"numba cannot be imported: {error}"

# M * N * K from which a second thread pays: about 100 us on one core with AVX-512, of which waking it costs 30 to 50.
_THREADED_FROM = 4_000_000

_Piece = tuple[int, int, int]


def _evaluate(now: Sequence[mx.array | None], soon: Sequence[mx.array | None]) -> None:
    """`now` has values on return; `soon` is being computed. NotEvaluable where one of them is traced."""
    try:
        mx.eval([a for a in now if a is not None])
        mx.async_eval([a for a in soon if a is not None])
    except ValueError as error:
        if "transformation" in str(error):  # "... during function transformations", "... inside a graph transformation"
            raise NotEvaluable(str(error)) from None
        raise


def _view(array: mx.array) -> np.ndarray:
    """The evaluated array's own memory, any strides."""
    return np.array(array, copy=False)


_ONE = np.ones(1, np.float32)


def _scale(array: mx.array | None, shape: tuple[int, ...]) -> np.ndarray:
    """The scale as f32, or 1 everywhere with strides of 0."""
    if array is None:
        return np.ndarray(shape, np.float32, _ONE, strides=(0,) * len(shape))
    return _view(array)


def _dense_rows(array: np.ndarray) -> np.ndarray:
    """`array` with its last axis free of gaps: what the kernel steps through by address."""
    return array if array.strides[-1] == array.itemsize or array.shape[-1] == 1 else np.ascontiguousarray(array)


def _columns(x: np.ndarray, col: np.ndarray | None, ids: np.ndarray, width: int) -> np.ndarray:
    """xs[m] = col[ids[m]] * x[m], zeros up to `width`; f32 [M, width]."""
    if col is None and x.shape[1] == width:
        return np.ascontiguousarray(x)
    xs = np.zeros((len(x), width), np.float32)
    if col is None:
        xs[:, : x.shape[1]] = x
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # a row that is not finite stays its own affair
            np.multiply(x, col[np.clip(ids, 0, len(col) - 1)], out=xs[:, : x.shape[1]])
    return xs


def _threads() -> int:
    """Cores this process may use, less where OMP_NUM_THREADS or NUMBA_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # OpenMP's may be a list, one a nesting level.
    limits = [os.environ.get(name, "").partition(",")[0] for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")]
    return max(1, min([cores, *(int(limit) for limit in limits if limit.isdecimal())]))


@cache
def _pool() -> tuple[int, ThreadPoolExecutor]:
    threads = _threads()
    return threads, ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="zen-kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has no threads but its own


def _shares(sizes: Sequence[int], threads: int, step: int) -> list[list[_Piece]]:
    """(plane, start, stop) pieces of planes with `sizes` rows, dealt out evenly; cut at multiples of `step`."""
    share = -(-sum(sizes) // threads)
    shares: list[list[_Piece]] = [[]]
    left = share
    for plane, size in enumerate(sizes):
        start = 0
        while start < size:
            if left <= 0:
                shares.append([])
                left = share
            stop = min(size, start + -(-left // step) * step)
            shares[-1].append((plane, start, stop))
            left -= stop - start
            start = stop
    return shares


def _run(work: Callable[[list[_Piece]], None], sizes: Sequence[int], products: int) -> None:
    """work(all pieces), over the threads where it is long enough."""
    threads = 1 if products < _THREADED_FROM else _pool()[0]
    mine, *others = _shares(sizes, threads, cpu_select.ROWS)
    waiting = [_pool()[1].submit(work, share) for share in others]
    work(mine)
    for future in waiting:
        future.result()


class _Plane(NamedTuple):
    """Host arrays of one projection, as `cpu_select` takes them."""

    packed: np.ndarray
    row: np.ndarray
    block: np.ndarray
    block_words: int
    xs: np.ndarray
    out: np.ndarray


def _plane(sign: SignOperand, k: int, xs: np.ndarray, out: np.ndarray) -> _Plane:
    slots, n, words = sign.packed.shape
    block_words = words if sign.block is None else reference.block_size(k, sign.block.shape[-1]) // 32
    block = _dense_rows(_scale(sign.block, (slots, n, 1)))
    return _Plane(_dense_rows(_view(sign.packed)), _scale(sign.row, (slots, n)), block, block_words, xs, out)


def select(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    """`operands.Launch`. NotEvaluable while MLX traces; under `mx.grad` it must be wrapped: alone it has no gradient."""
    x32 = x.astype(mx.float32)
    # The base product runs beside the kernel; the sum with it is left to MLX, which saves waiting for it here.
    _evaluate([x32, slots, *(array for sign in signs for array in sign)], y_bases)
    values, rows, k = _view(x32), *x.shape
    width = 32 * signs[0].packed.shape[-1]

    if slots is None:
        ids, order = np.zeros(rows, np.int32), np.arange(rows)
        empty = np.empty
    else:
        ids = np.ascontiguousarray(_view(slots), np.int32)
        order = np.argsort(ids, kind="stable")
        order = order[(ids[order] >= 0) & (ids[order] < signs[0].packed.shape[0])]
        empty = np.zeros
    shared = values if signs[0].col is not None else _columns(values, None, ids, width)
    planes = []
    for sign in signs:
        xs = shared if sign.col is None else _columns(values, _view(sign.col), ids, width)
        planes.append(_plane(sign, k, xs, empty((rows, sign.packed.shape[1]), np.float32)))

    kernel = cpu_select.select()

    def work(pieces: list[_Piece]) -> None:
        for number, start, stop in pieces:
            packed, row, block, block_words, xs, out = planes[number]
            kernel(packed, row, block, block_words, xs, ids, order, out, start, stop)

    sizes = [plane.out.shape[1] for plane in planes]
    _run(work, sizes, len(order) * sum(sizes) * k)
    deltas = [mx.array(plane.out) for plane in planes]
    return [
        delta.astype(x.dtype) if y is None else (y.astype(mx.float32) + delta).astype(y.dtype)
        for delta, y in zip(deltas, y_bases, strict=True)
    ]


KERNELS: Mapping[str, Launch] = {"select": select} if UNAVAILABLE is None else {}
