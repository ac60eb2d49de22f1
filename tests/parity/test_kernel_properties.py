"""What holds for every kernel beyond its numbers: rows are independent, bad input stays visible, nothing is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import mlx.core as mx
import numpy as np
import pytest
from parity import backends, oracle
from parity.cases import MATMULS, MERGES
from parity.operands import DTYPES, Operands, generator, make_sign

from zen_mlx.kernels import dispatch

S, K, N = 3, 100, 9
VALID = np.array([1, 0, 2, 2, 0, 1, 1, 0, 2, 0, 1, 2], np.int32)


def setting(dtype: str, m: int, slots: np.ndarray | None, s: int = S, n: int = N, k: int = K) -> Operands:
    """One plane with row and column scales under m rows with slots, y_base in x's dtype."""
    rng = generator("properties", dtype, m, s, n, k)
    x = mx.array(rng.standard_normal((m, k)).astype(np.float32)).astype(DTYPES[dtype])
    base = mx.array(rng.standard_normal((m, n)).astype(np.float32)).astype(DTYPES[dtype])
    ids = None if slots is None else mx.array(slots)
    return Operands(x, [make_sign(rng, "rowcol", "random", s, n, k)], [base], ids)


def launched(use, kernel: str, hardware: bool, data: Operands) -> np.ndarray:
    backend, name = kernel.split(".")
    return oracle.as_f32(dispatch.run(use(backend, hardware).launch[name], *data)[0])


@backends.on_every(*MATMULS)
@pytest.mark.parametrize(("dtype", "m"), [("bf16", 2), ("f32", 12), ("bf16", 12), ("f32", 33)])
def test_rows_are_independent(kernel: str, hardware: bool, dtype: str, m: int, use) -> None:
    """With M fixed, a row's bits do not change with the other rows' x, slots and y_base."""
    data = setting(dtype, m, np.resize(VALID, m))
    before = launched(use, kernel, hardware, data)
    rng = generator("others", m)
    for row in sorted({0, m // 2, m - 1}):
        mine = np.arange(m)[:, None] == row
        others = mx.array((1000 * rng.standard_normal((m, K))).astype(np.float32)).astype(data.x.dtype)
        x = mx.where(mx.array(mine), data.x, others)
        base = mx.where(mx.array(mine), data.y_bases[0], others[:, :N])
        slots = np.where(mine[:, 0], np.array(data.slots), rng.integers(-1, S + 1, m)).astype(np.int32)
        after = launched(use, kernel, hardware, Operands(x, data.signs, [base], mx.array(slots)))
        np.testing.assert_array_equal(after[row], before[row])


@backends.on_every(*MATMULS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_x_gives_a_non_finite_row(kernel: str, hardware: bool, value: float, use) -> None:
    """Wherever it stands, under bits of either kind; the other rows keep their bits, and so does a row without slot."""
    m, dtype = 12, "bf16"
    slots = VALID.copy()
    slots[7] = -1
    data = setting(dtype, m, slots)
    clean = launched(use, kernel, hardware, data)
    places = {0: 0, 1: 31, 3: 32, 4: 63, 6: 95, 7: 50, 8: 96, 10: K - 1}  # row: column
    hit = np.zeros((m, K), bool)
    hit[list(places), list(places.values())] = True
    x = mx.where(mx.array(hit), mx.array(value).astype(data.x.dtype), data.x)
    found = launched(use, kernel, hardware, data._replace(x=x))
    bits = oracle.signs_of(np.array(data.signs[0].packed), K)
    assert {-1.0, 1.0} == {float(b) for row, column in places.items() for b in bits[slots[row], :, column]}
    for row in range(m):
        if row in places and row != 7:
            assert not np.isfinite(found[row]).any(), f"row {row}"
        else:
            np.testing.assert_array_equal(found[row], clean[row])


@backends.on_every(*MATMULS)
def test_slots_out_of_range_leave_y_base(kernel: str, hardware: bool, use) -> None:
    """Ids below 0 or at least S, the extremes of i32 among them: y = y_base bit for bit, also where all of them are."""
    slots = np.array([-1, 0, S, S - 1, 2**31 - 1, -(2**31), 1, 1, 0, 2, -S, S + 1], np.int32)
    outside = (slots < 0) | (slots >= S)
    data = setting("bf16", 12, slots)
    found, base = launched(use, kernel, hardware, data), oracle.as_f32(data.y_bases[0])
    np.testing.assert_array_equal(found[outside], base[outside])
    assert (found[~outside] != base[~outside]).any(axis=1).all()
    nowhere = data._replace(slots=mx.array(np.where(outside, slots, -7).astype(np.int32)))
    np.testing.assert_array_equal(launched(use, kernel, hardware, nowhere), base)


@backends.on_every(*MATMULS)
def test_few_scales(kernel: str, hardware: bool, use) -> None:
    """Operands of fewer than 8 elements, which Metal passes in another address space: S = 1, N = 1, M = 1, K = 4."""
    for slots in (None, np.zeros(1, np.int32)):
        for m, n, k in ((1, 1, 4), (2, 3, 4), (1, 7, 33)):
            data = setting("bf16", m, None if slots is None else np.resize(slots, m), 1, n, k)
            backend, name = kernel.split(".")
            oracle.check(data, dispatch.run(use(backend, hardware).launch[name], *data))


@backends.on_every(*MATMULS)
def test_projections_may_differ_in_size_and_type(kernel: str, hardware: bool, use) -> None:
    """Three planes of one launch with their own N, and y_base of their own type."""
    data, rng = setting("bf16", 5, VALID[:5]), generator("projections")
    ns = {7: "f32", 33: "bf16", 1: "f16"}
    signs = [make_sign(rng, "rowcol", "random", S, n, K) for n in ns]
    bases = [mx.array(rng.standard_normal((5, n)).astype(np.float32)).astype(DTYPES[d]) for n, d in ns.items()]
    data = Operands(data.x, signs, bases, data.slots)
    backend, name = kernel.split(".")
    oracle.check(data, dispatch.run(use(backend, hardware).launch[name], *data))


@contextmanager
def recorded(kernel: str) -> Iterator[tuple[backends.Kernels, backends.Recorder]]:
    """The emulated kernels, and the element counts of every array that a launch takes or allocates."""
    backend = kernel.partition(".")[0]
    reason = backends.missing(backend, False)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    recorder = backends.Recorder()
    with backends.kernels(backend, wrap=recorder) as found:
        yield found, recorder
    assert recorder.elements


@pytest.mark.parametrize("kernel", [k for k in MATMULS if k.startswith(backends.GPUS) and k != "cuda.unpack"])
@pytest.mark.parametrize("m", [1, 8, 33])
def test_nothing_is_unpacked(kernel: str, m: int) -> None:
    """No launch takes or makes an array as large as the matrix: the packed words are the only form of it in memory."""
    data = setting("bf16", m, None, 1, 128, 544)
    with recorded(kernel) as (found, recorder):
        mx.eval(dispatch.run(found.launch[kernel.partition(".")[2]], *data))
    assert data.signs[0].packed.size in recorder.elements
    assert max(recorder.elements) < 128 * 544


def test_unpacking_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda.unpack` is for prefill: a matmul library reads what it unpacks, a bounded tile of rows after another."""
    data = setting("bf16", 33, None, 1, 64, 544)
    with recorded("cuda.unpack") as (found, recorder):
        monkeypatch.setattr(import_module("zen_mlx.kernels.cuda"), "_TILE_BYTES", 4 * 544 * 10)
        oracle.check(data, dispatch.run(found.launch["unpack"], *data))
    # the f32 terms of x are as many as M asks for
    assert sorted(recorder.elements).count(544 * 10) == 6
    assert max(recorder.elements) <= max(544 * 10, 2 * 33 * 544)


@pytest.mark.parametrize("kernel", MERGES)
def test_merge_makes_one_matrix(kernel: str) -> None:
    """Its input and its output are the only arrays as large as the matrix."""
    data = setting("bf16", 1, None, 1, 64, 544)
    with recorded(kernel) as (found, recorder):
        assert found.merge is not None
        mx.eval(found.merge(mx.zeros((1, 64, 544), mx.bfloat16), data.signs[0]))
    assert sum(size >= 64 * 544 for size in recorder.elements) == 2


@pytest.mark.parametrize(
    ("kernel", "rows"),
    [
        pytest.param(k, m, marks=getattr(pytest.mark, k.partition(".")[0]))
        for k in MATMULS
        if k.startswith(backends.GPUS) and k != "cuda.unpack"
        for m in (1, 8, 64)
    ],
)
def test_peak_memory_on_hardware(kernel: str, rows: int, use) -> None:
    """One product with a 4096 x 4096 plane (2 MiB packed) takes less than one unpacked byte a weight."""
    backend, name = kernel.split(".")
    launch = use(backend, True).launch[name]
    data = setting("bf16", rows, None, 1, 4096, 4096)
    mx.eval(data.x, *(each for each in data.signs[0] if each is not None), data.y_bases[0])
    mx.eval(dispatch.run(launch, *data))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(dispatch.run(launch, *data))
    assert mx.get_peak_memory() - before < 4096 * 4096
