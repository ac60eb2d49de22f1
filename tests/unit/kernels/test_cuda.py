"""The binding of the CUDA kernels, and their numbers in the emulator where the parity suite does not look."""

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

from zen_mlx.kernels import cuda, cuda_text, reference
from zen_mlx.kernels.operands import SignOperand

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

EMULATED = bool(shutil.which("g++")) and importlib.util.find_spec("emulators.cuda") is not None
needs_emulator = pytest.mark.skipif(not EMULATED, reason="the CUDA emulator needs g++")


def random_sign(
    seed: int, s: int, n: int, k: int, *, row: bool = True, col: bool = False, block: int = 0
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


def normal(seed: int, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).astype(dtype)


class Recorder:
    """A constructor that keeps what it and its kernels are called with; `made` computes, zeros without it."""

    def __init__(self, made: Callable[..., Any] | None = None) -> None:
        self.made = made
        self.built: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **built: Any) -> Callable[..., list[mx.array]]:
        self.built.append(built)
        compute = self.made and self.made(**built)

        def call(**given: Any) -> list[mx.array]:
            self.calls.append(given)
            if compute:
                return compute(**given)
            return [mx.zeros(s, dtype=d) for s, d in zip(given["output_shapes"], given["output_dtypes"], strict=True)]

        return call


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    found = Recorder()
    monkeypatch.setattr(cuda, "cuda_kernel", found)
    cuda.kernel.cache_clear()
    yield found
    cuda.kernel.cache_clear()


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    found = Recorder(importlib.import_module("emulators.cuda").cuda_kernel)
    monkeypatch.setattr(cuda, "cuda_kernel", found)
    cuda.kernel.cache_clear()
    yield found
    cuda.kernel.cache_clear()


def close(found: mx.array, wanted: mx.array, tolerance: float = 1e-5) -> None:
    a, b = (np.array(each.astype(mx.float32)) for each in (found, wanted))
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max(initial=1)))


def expected(x: mx.array, sign: SignOperand, base: mx.array | None = None, slots: mx.array | None = None) -> mx.array:
    y_base = None if base is None else base.astype(mx.float32)
    more = {"row": sign.row, "col": sign.col, "block": sign.block, "slots": slots, "y_base": y_base, "unpack": True}
    return reference.sign_matmul(x.astype(mx.float32), sign.packed, **more)


@pytest.mark.parametrize("name", ["matvec", "mma", "unpack"])
def test_a_kernel_is_built_once_for_a_form(recorder: Recorder, name: str) -> None:
    sign, x = random_sign(0, 1, 8, 64, block=32), normal(1, 3, 64)
    for _ in range(2):
        cuda.KERNELS[name](x, [sign], [None], None)
    names = [built["name"] for built in recorder.built]
    assert len(names) == len(set(names))
    assert len(recorder.calls) == 2 * len(names)


def test_the_name_tells_every_operand_type(recorder: Recorder) -> None:
    """MLX's cache of compiled kernels, on disk too, knows a kernel by its name alone."""
    sign = random_sign(0, 1, 8, 64)
    for x_dtype in (mx.float32, mx.float16, mx.bfloat16):
        for base_dtype in (mx.float32, mx.float16, mx.bfloat16):
            cuda.KERNELS["matvec"](normal(1, 1, 64, dtype=x_dtype), [sign], [mx.zeros((1, 8), base_dtype)], None)
    assert len({built["name"] for built in recorder.built}) == 9


def test_the_name_follows_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cuda_text.text(cuda_text.CudaForm("matvec"))
    monkeypatch.setattr(cuda_text, "source", lambda folder, name: "// another version\n")
    assert cuda_text.text(cuda_text.CudaForm("matvec")).name != before.name


def test_planes_share_a_launch(recorder: Recorder) -> None:
    signs = [random_sign(i, 1, n, 64) for i, n in enumerate((40, 9, 16))]
    cuda.KERNELS["matvec"](normal(1, 1, 64), signs, [None] * 3, None)
    [call] = recorder.calls
    assert call["grid"] == ((3 + 1 + 1) * 128, 1, 1)
    assert call["output_shapes"] == [(1, 40), (1, 9), (1, 16)]


def test_planes_of_different_types_go_one_at_a_time(recorder: Recorder) -> None:
    signs = [random_sign(i, 1, 8, 64) for i in range(2)]
    cuda.KERNELS["mma"](
        normal(1, 2, 64, dtype=mx.bfloat16), signs, [mx.zeros((2, 8)), mx.zeros((2, 8), mx.bfloat16)], None
    )
    assert [call["output_dtypes"] for call in recorder.calls] == [[mx.float32], [mx.bfloat16]]


def test_16_bit_rows_need_no_second_launch(recorder: Recorder) -> None:
    """A col, f32 or a K off 32 puts `split` before mma; bf16 and f16 as they come do not."""
    x = normal(1, 4, 64, dtype=mx.bfloat16)
    cuda.KERNELS["mma"](x, [random_sign(0, 1, 8, 64)] * 2, [None] * 2, None)
    assert len(recorder.calls) == 1
    cuda.KERNELS["mma"](x, [random_sign(0, 1, 8, 64, col=True)] * 2, [None] * 2, None)
    assert [len(call["output_shapes"][0]) for call in recorder.calls[1:]] == [3, 3, 2]
    cuda.KERNELS["mma"](x[:, :50], [random_sign(0, 1, 8, 50)], [None], None)
    assert recorder.calls[-2]["output_shapes"] == [(1, 4, 64)]


def test_grid_stays_within_what_cuda_launches(recorder: Recorder) -> None:
    x = mx.zeros((70000, 32), dtype=mx.float16)
    for name in ("matvec", "mma"):
        cuda.KERNELS[name](x, [random_sign(0, 1, 4, 32)], [None], None)
    assert all(call["grid"][1] <= 65535 for call in recorder.calls)


@needs_emulator
def test_three_terms_are_the_product_exactly(emulated: Recorder) -> None:
    x, col = normal(1, 3, 40) * 100, normal(2, 2, 40)
    slots = mx.array([1, 0, 2], dtype=mx.int32)
    terms = cuda.split(x, col, slots, 3, 64, mx.bfloat16)
    assert terms.shape == (3, 3, 64)
    parts = np.array(terms.astype(mx.float32)).astype(np.float64)
    wanted = np.array(x * col[mx.array([1, 0, 0])])
    wanted[2] = 0
    np.testing.assert_array_equal(parts.sum(0)[:, :40], wanted)
    assert not parts[:, :, 40:].any()
    wide = np.array(cuda.split(x, None, None, 3, 40, mx.float32))
    np.testing.assert_array_equal(wide.astype(np.float64).sum(0), np.array(x))
    assert not (wide.view(np.uint32) & 0xFFFF).any()


@needs_emulator
def test_unpacks_a_bounded_tile_at_a_time(emulated: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_TILE_BYTES", 4096)
    sign, x, base = random_sign(0, 1, 33, 96, block=32), normal(1, 70, 96), normal(2, 70, 33)
    [y] = cuda.KERNELS["unpack"](x, [sign], [base], None)
    close(y, expected(x, sign, base))
    tiles = [call["output_shapes"][0] for call in emulated.calls if call["output_shapes"][0][1:] != (70, 96)]
    assert len(tiles) == 11
    assert all(4 * terms * n * k <= 4096 for terms, n, k in tiles)


@needs_emulator
@pytest.mark.parametrize(("name", "dtype"), [("matvec", mx.float16), ("mma", mx.bfloat16), ("matvec", mx.float32)])
@pytest.mark.parametrize("block", [0, 64])
def test_views_that_start_anywhere(emulated: Recorder, name: str, dtype: mx.Dtype, block: int) -> None:
    """x and the words of a slice lie off any wide load's alignment."""
    flat, whole = normal(1, 3 + 2 * 128, dtype=dtype), random_sign(0, 1, 11, 128, block=block)
    words = mx.concatenate([mx.zeros(1, dtype=mx.uint32), whole.packed.reshape(-1)])[1:].reshape(whole.packed.shape)
    x = flat[3:].reshape(2, 128)
    mx.eval(flat, words)
    [y] = cuda.KERNELS[name](x, [whole._replace(packed=words)], [mx.zeros((2, 11))], None)
    close(y, expected(x, whole))


@needs_emulator
@pytest.mark.parametrize("slots", [list(range(33)), [5] * 33, [-1] * 33, [32, 33] * 16 + [0]])
def test_one_pass_a_slot(emulated: Recorder, slots: list[int]) -> None:
    sign, x, base = random_sign(0, 33, 5, 64), normal(1, 33, 64, dtype=mx.bfloat16), normal(2, 33, 5)
    ids = mx.array(slots, dtype=mx.int32)
    [y] = cuda.KERNELS["mma"](x, [sign], [base], ids)
    close(y, expected(x, sign, base, ids))


@needs_emulator
@pytest.mark.parametrize("name", ["matvec", "mma"])
def test_sums_over_several_stages(emulated: Recorder, name: str) -> None:
    """K beyond one stage of matvec and beyond one turn of mma's warps, cut inside a word."""
    sign, x = random_sign(0, 1, 3, 8192 + 4096 + 70, col=True, block=256), normal(1, 1, 8192 + 4096 + 70)
    [y] = cuda.KERNELS[name](x, [sign], [None], None)
    close(y, expected(x, sign))
