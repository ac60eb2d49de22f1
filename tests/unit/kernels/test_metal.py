"""The binding of the Metal kernels, and their numbers in the emulator where the parity suite does not look."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.kernels import metal, reference
from zen_mlx.kernels.operands import SignOperand

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `emulators.metal`

EMULATED = bool(shutil.which("g++")) and importlib.util.find_spec("emulators.metal") is not None
needs_emulator = pytest.mark.skipif(not EMULATED, reason="the Metal emulator needs g++")


def random_sign(
    seed: int, s: int, n: int, k: int, *, row: bool = True, col: bool = True, block: int = 0
) -> SignOperand:
    rng = np.random.default_rng(seed)

    def scales(*shape: int) -> mx.array:
        return mx.array(rng.uniform(0.5, 1.5, shape).astype(np.float32))

    return SignOperand(
        mx.array(rng.integers(0, 2**32, (s, n, -(-k // 32)), dtype=np.uint32)),
        scales(s, n) if row else None,
        scales(s, k) if col else None,
        scales(s, n, -(-k // block)) if block else None,
    )


def normal(seed: int, *shape: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


class Recorder:
    """A constructor that keeps what it and its kernels are called with, and computes nothing."""

    def __init__(self) -> None:
        self.built: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **built: Any) -> Callable[..., list[mx.array]]:
        self.built.append(built)

        def call(**given: Any) -> list[mx.array]:
            self.calls.append(given)
            shapes = zip(given["output_shapes"], given["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype=dtype) for shape, dtype in shapes]

        return call


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    found = Recorder()
    monkeypatch.setattr(metal, "metal_kernel", found)
    metal.kernel.cache_clear()
    yield found
    metal.kernel.cache_clear()


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from emulators import metal as metal_emulator

    monkeypatch.setattr(metal, "metal_kernel", metal_emulator.metal_kernel)
    metal.kernel.cache_clear()
    yield
    metal.kernel.cache_clear()


@pytest.mark.parametrize(
    ("file", "m", "ns", "threads"),
    [
        ("matvec", 1, [1], (64, 1, 1)),
        ("matvec", 5, [8, 9], (64 * 3, 5, 1)),  # 4 rows a simdgroup, two simdgroups a threadgroup
        ("matvec", 1, [2048, 1], (64 * (128 + 1), 1, 1)),  # many rows: 8 a simdgroup
        ("wide", 4, [9], (64 * 2, 1, 1)),
        ("wide", 13, [2048], (64 * 128, 4, 1)),
        ("matmul", 16, [64], (128, 1, 1)),
        ("matmul", 33, [64, 65, 1], (128 * 4, 2, 1)),
        ("matmul", 257, [64], (128, 5, 1)),  # many rows of x: 64 a threadgroup
    ],
)
def test_grid_covers_every_projection_and_row(
    file: str, m: int, ns: list[int], threads: tuple[int, int, int], recorder: Recorder
) -> None:
    signs = [SignOperand(mx.zeros((1, n, 1), dtype=mx.uint32)) for n in ns]
    metal.KERNELS[file](mx.zeros((m, 32)), signs, [None] * len(ns), None)
    call = recorder.calls[0]
    assert call["grid"] == threads
    assert call["output_shapes"] == [(m, n) for n in ns]
    cut = metal.tiling(file, m, sum(ns))
    assert call["threadgroup"] == (cut.threads, 1, 1)
    assert threads[1] * cut.rows_m >= m > (threads[1] - 1) * cut.rows_m


def test_tiles_agree_with_the_files() -> None:
    """The constants that both sides state."""
    texts = {file: metal.source("metal_kernels", f"{file}.metal") for file in ("matvec", "wide", "matmul")}
    assert f"WIDE_M = {metal.tiling('wide', 2, 1).rows_m};" in texts["wide"]
    assert f"MATMUL_N = {metal.tiling('matmul', 2, 1).rows_n};" in texts["matmul"]
    assert f"MATMUL_THREADS = {metal.tiling('matmul', 2, 1).threads};" in texts["matmul"]
    for file in ("matvec", "wide"):
        assert "(tile * 2 + simdgroup) * ROWS" in texts[file]
        assert metal.tiling(file, 1, 1).rows_n == 2 * metal.tiling(file, 1, 1).size


def test_matmul_memory_is_within_a_threadgroup() -> None:
    for m in (13, 32, 4096):
        cut = metal.tiling("matmul", m, 1)
        tiles, sums = (cut.rows_m + cut.rows_n) * 36, cut.rows_m * cut.rows_n
        assert sums <= tiles  # the sums go through the tiles' memory
        assert 4 * (tiles + cut.rows_m) <= 32768 // 1.5


def test_a_kernel_is_built_once_a_form_under_a_name_of_its_own(recorder: Recorder) -> None:
    """MLX keeps one library a name: two texts under one name would be compiled again at every call."""
    forms = [
        metal.MetalForm(planes, *(bool(bits >> i & 1) for i in range(5))) for planes in (1, 2, 3) for bits in range(32)
    ]
    for file in ("matvec", "wide", "matmul", "merge"):
        for form in forms:
            assert metal.kernel(file, form) is metal.kernel(file, form)
    assert len(recorder.built) == 4 * len(forms)
    assert len({built["name"] for built in recorder.built}) == len(recorder.built)


def test_no_launch_has_more_buffers_than_metal_binds(recorder: Recorder) -> None:
    """31: every array is one, and every shape that the body names is one more."""
    everything = metal.kernel("matvec", metal.MetalForm(3, True, True, True, True, True))
    assert everything is not None
    built = recorder.built[0]
    shapes = [name for name in built["input_names"] if f"{name}_shape" in built["source"]]
    assert len(built["input_names"]) + len(shapes) + len(built["output_names"]) <= 31


def test_absent_operands_are_no_inputs(recorder: Recorder) -> None:
    x, sign = mx.zeros((1, 64)), random_sign(0, 1, 3, 64, row=False, col=False)
    metal.KERNELS["matvec"](x, [sign], [None], None)
    assert recorder.built[0]["input_names"] == ["x", "packed0"]
    assert [array.shape for array in recorder.calls[0]["inputs"]] == [(1, 64), (1, 3, 2)]


def test_outputs_take_the_type_of_y_base_or_of_x(recorder: Recorder) -> None:
    x, sign = mx.zeros((2, 64), dtype=mx.bfloat16), random_sign(0, 1, 3, 64)
    y = metal.KERNELS["wide"](x, [sign, sign], [None, None], None)
    assert [array.dtype for array in y] == [mx.bfloat16, mx.bfloat16]
    y = metal.KERNELS["wide"](x, [sign], [mx.zeros((2, 3))], None)
    assert y[0].dtype == mx.float32


@needs_emulator
@pytest.mark.parametrize("file", ["matvec", "wide", "matmul"])
def test_uneven_projections_fall_where_they_belong(file: str, emulated: None) -> None:
    """A projection that ends within a tile, one that fills its tiles, and one smaller than a tile."""
    k, m, ns = 100, 5, (17, 64, 1)
    x = normal(1, m, k)
    slots = mx.array([1, 0, -1, 0, 2], dtype=mx.int32)
    signs = [random_sign(n, 2, n, k) for n in ns]
    bases = [normal(10 + n, m, n) for n in ns]
    found = metal.KERNELS[file](x, signs, bases, slots)
    for y, (packed, row, col, block), base in zip(found, signs, bases, strict=True):
        want = reference.sign_matmul(x, packed, row=row, col=col, block=block, slots=slots, y_base=base)
        np.testing.assert_allclose(np.array(y), np.array(want), rtol=0, atol=2e-5)


@needs_emulator
@pytest.mark.parametrize("file", ["matvec", "wide"])
def test_many_rows_take_the_wider_simdgroup(file: str, emulated: None) -> None:
    k, n = 40, 2049
    assert metal.tiling(file, 2, n).size == 8
    x, sign = normal(1, 2, k), random_sign(2, 1, n, k)
    want = reference.sign_matmul(x, sign.packed, row=sign.row, col=sign.col)
    found = metal.KERNELS[file](x, [sign], [None], None)
    np.testing.assert_allclose(np.array(found[0]), np.array(want), rtol=0, atol=2e-5)


@needs_emulator
def test_matmul_with_many_rows_of_x_takes_the_taller_tile(emulated: None) -> None:
    m, k, n = 97, 33, 3
    assert metal.tiling("matmul", m, n).rows_m == 64
    x, sign = normal(1, m, k), random_sign(2, 3, n, k, block=32)
    slots = mx.array(np.random.default_rng(3).integers(-1, 4, m).astype(np.int32))
    want = reference.sign_matmul(x, *sign[:1], row=sign.row, col=sign.col, block=sign.block, slots=slots)
    found = metal.KERNELS["matmul"](x, [sign], [None], slots)
    np.testing.assert_allclose(np.array(found[0]), np.array(want), rtol=0, atol=2e-5)


@needs_emulator
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize(("k", "block"), [(4, 0), (100, 32), (264, 128)])
def test_merge_rounds_once(dtype: mx.Dtype, k: int, block: int, emulated: None) -> None:
    s, n = 2, 3
    base = normal(4, s, n, k).astype(dtype)
    sign = random_sign(5, s, n, k, block=block)
    delta = np.array(reference.sign_dense(sign.packed, k, sign.row, sign.col, sign.block)).astype(np.float64)
    exact = np.array(base.astype(mx.float32)).astype(np.float64) + delta
    found = metal.merge(base, sign)
    assert found.dtype == dtype
    unit = {mx.float32: 2.0**-23, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[dtype]
    # half a unit of the result for the rounding, and what f32 leaves of the product of three scales
    bound = unit * np.abs(exact) + 2.0**-22 * np.abs(delta) + 2.0**-24
    assert np.all(np.abs(np.array(found.astype(mx.float32)) - exact) <= bound)
