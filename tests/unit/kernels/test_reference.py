"""The reference kernel against the same equation in NumPy float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.errors import TargetError
from zen_mlx.kernels import dispatch, reference

SCALES = ("none", "row", "col", "rowcol", "block")
DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


def pack(signs: np.ndarray) -> np.ndarray:
    """signs +-1 [..., K] -> u32 [..., ceil(K/32)], bit by bit."""
    k = signs.shape[-1]
    words = np.zeros((*signs.shape[:-1], -(-k // 32)), dtype=np.uint32)
    for j in range(k):
        words[..., j // 32] |= (signs[..., j] > 0).astype(np.uint32) << np.uint32(j % 32)
    return words


class Case:
    """Random operands and their dense float64 delta [S, N, K]."""

    def __init__(self, scale: str, s: int, n: int, k: int, block: int = 32, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, s, n, k])
        signs = rng.choice([-1.0, 1.0], size=(s, n, k))
        self.k = k
        self.packed = mx.array(pack(signs))
        self.kwargs: dict[str, mx.array] = {}
        self.dense = signs
        if scale in ("row", "rowcol"):
            row = rng.uniform(0, 2, (s, n)).astype(np.float32)
            self.kwargs["row"], self.dense = mx.array(row), self.dense * row[..., None]
        if scale in ("col", "rowcol"):
            col = rng.uniform(0, 2, (s, k)).astype(np.float32)
            self.kwargs["col"], self.dense = mx.array(col), self.dense * col[:, None]
        if scale == "block":
            blocks = rng.uniform(0, 2, (s, n, -(-k // block))).astype(np.float32)
            self.kwargs["block"] = mx.array(blocks)
            self.dense = self.dense * np.repeat(blocks, block, axis=-1)[..., :k]

    def expected(self, x: mx.array, slots: np.ndarray | None = None, y_base: mx.array | None = None) -> np.ndarray:
        x64 = np.array(x.astype(mx.float32), dtype=np.float64)
        rows = x64.reshape(-1, self.k)
        ids = np.zeros(len(rows), dtype=int) if slots is None else slots.reshape(-1)
        y = np.zeros((len(rows), self.dense.shape[1]))
        for m, slot in enumerate(ids):
            if 0 <= slot < len(self.dense):
                y[m] = self.dense[slot] @ rows[m]
        y = y.reshape(*x64.shape[:-1], -1)
        return y if y_base is None else y + np.array(y_base.astype(mx.float32), dtype=np.float64)


def close(y: mx.array, expected: np.ndarray, dtype: mx.Dtype = mx.float32) -> None:
    """f32 sums of K terms stay within 1e-5 of the largest value; narrower outputs within one rounding of it."""
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    tolerance = {mx.float32: 1e-5, mx.float16: 2**-11, mx.bfloat16: 2**-8}[dtype] * scale
    assert y.shape == expected.shape
    assert y.dtype == dtype
    np.testing.assert_allclose(np.array(y.astype(mx.float32)), expected, atol=tolerance, rtol=0)


def normal(*shape: int, seed: int = 1) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 31), (7, 32), (3, 33), (40, 64), (64, 128), (9, 200), (33, 260)])
def test_equation_for_every_width(scale: str, n: int, k: int, unpack: bool) -> None:
    case = Case(scale, 1, n, k)
    x = normal(3, k)
    close(reference.sign_matmul(x, case.packed, unpack=unpack, **case.kwargs), case.expected(x))


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("block", reference.BLOCKS)
@pytest.mark.parametrize("k", [64, 100, 256, 300, 512])
def test_every_block_size(block: int, k: int, unpack: bool) -> None:
    case = Case("block", 2, 6, k, block)
    x, slots = normal(4, k), np.array([1, 0, 5, 1])
    y = reference.sign_matmul(x, case.packed, slots=mx.array(slots), unpack=unpack, **case.kwargs)
    close(y, case.expected(x, slots))


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ids", [[0, 1, 2, 0, 1, 1, 2], [-1, 3, 2, 2, 99, 0, -7], [-1] * 7, [0]])
def test_slot_ids(scale: str, ids: list[int], unpack: bool) -> None:
    case = Case(scale, 3, 10, 96)
    x, slots = normal(len(ids), 96), np.array(ids)
    y_base = normal(len(ids), 10, seed=2)
    y = reference.sign_matmul(x, case.packed, slots=mx.array(slots), y_base=y_base, unpack=unpack, **case.kwargs)
    close(y, case.expected(x, slots, y_base))


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unpack", [False, True])
def test_leading_axes_and_dtypes(lead: tuple[int, ...], dtype: str, unpack: bool) -> None:
    case = Case("rowcol", 2, 12, 72)
    x = normal(*lead, 72).astype(DTYPES[dtype])
    y_base = normal(*lead, 12, seed=3).astype(DTYPES[dtype])
    slots = np.random.default_rng(0).integers(-1, 3, lead)
    y = reference.sign_matmul(x, case.packed, slots=mx.array(slots), y_base=y_base, unpack=unpack, **case.kwargs)
    close(y, case.expected(x, slots, y_base), DTYPES[dtype])
    close(reference.sign_matmul(x, case.packed, unpack=unpack, **case.kwargs), case.expected(x), DTYPES[dtype])


@pytest.mark.parametrize("base", [False, True])
def test_no_rows(base: bool) -> None:
    case = Case("row", 2, 8, 40)
    y_base = mx.zeros((0, 8)) if base else None
    y = dispatch.sign_matmul(mx.zeros((0, 40)), case.packed, slots=mx.zeros(0, mx.int32), y_base=y_base, **case.kwargs)
    assert y.shape == (0, 8)


def test_pad_bits_are_never_read_as_weights() -> None:
    case = Case("row", 1, 6, 50)
    x = normal(2, 50)
    dirty = case.packed | mx.array([0, 0xFFFC0000], dtype=mx.uint32)
    for unpack in (False, True):
        close(reference.sign_matmul(x, dirty, unpack=unpack, **case.kwargs), case.expected(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unpack_signs(dtype: str) -> None:
    case = Case("none", 3, 5, 77)
    signs = reference.unpack_signs(case.packed, 77, DTYPES[dtype])
    assert signs.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(np.array(signs.astype(mx.float32)), case.dense)


def test_block_size_is_the_one_that_fits() -> None:
    for size in reference.BLOCKS:
        assert reference.block_size(1024, 1024 // size) == size
    with pytest.raises(ValueError, match="no block size"):
        reference.block_size(100, 3)


@pytest.mark.parametrize("unpack", [False, True])
@pytest.mark.parametrize("scale", ["rowcol", "block"])
def test_gradients(scale: str, unpack: bool) -> None:
    """For <y, g>: dx = sum_n g D; drow = g * sum_k S col x; dcol = x * sum_n g row S; dblock sums its columns."""
    case = Case(scale, 2, 6, 64)
    x, g, slots = normal(5, 64), normal(5, 6, seed=4), np.array([0, 1, -1, 1, 0])
    names = list(case.kwargs)

    def loss(x: mx.array, *arrays: mx.array) -> mx.array:
        y = reference.sign_matmul(
            x, case.packed, slots=mx.array(slots), unpack=unpack, **dict(zip(names, arrays, strict=True))
        )
        return (y * g).sum()

    got = mx.grad(loss, argnums=tuple(range(1 + len(names))))(x, *case.kwargs.values())
    x64, g64 = np.array(x, dtype=np.float64), np.array(g, dtype=np.float64)
    signs = np.sign(case.dense)
    arrays = {name: np.array(a, dtype=np.float64) for name, a in case.kwargs.items()}
    want = {"x": np.zeros((5, 64))} | {name: np.zeros(a.shape) for name, a in arrays.items()}
    for m, s in enumerate(slots):
        if s < 0:
            continue
        want["x"][m] = g64[m] @ case.dense[s]
        outer = g64[m][:, None] * x64[m] * signs[s]
        if scale == "rowcol":
            want["row"][s] += (outer * arrays["col"][s]).sum(1)
            want["col"][s] += (outer * arrays["row"][s][:, None]).sum(0)
        else:
            want["block"][s] += outer.reshape(6, 2, 32).sum(-1)
    for name, value in zip(["x", *names], got, strict=True):
        np.testing.assert_allclose(np.array(value), want[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("unpack", [False, True])
def test_compiled_equals_plain(unpack: bool) -> None:
    case = Case("rowcol", 2, 6, 70)
    x, slots = normal(4, 70), mx.array([1, -1, 0, 5])

    def run(x: mx.array, slots: mx.array) -> mx.array:
        return reference.sign_matmul(x, case.packed, slots=slots, unpack=unpack, **case.kwargs)

    np.testing.assert_allclose(np.array(mx.compile(run)(x, slots)), np.array(run(x, slots)), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
@pytest.mark.parametrize("s", [1, 3])
def test_the_door_agrees_on_both_sides_of_its_threshold(rows: int, s: int) -> None:
    case = Case("rowcol", s, 16, 128)
    x, slots = normal(rows, 128), np.arange(rows) % (s + 1)
    close(dispatch.sign_matmul(x, case.packed, slots=mx.array(slots), **case.kwargs), case.expected(x, slots))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("packed", {"packed": mx.zeros((1, 8, 3), mx.uint32)}),
        ("row", {"row": mx.zeros((1, 7))}),
        ("col", {"col": mx.zeros((1, 63))}),
        ("slots", {"slots": mx.zeros(3, mx.int32)}),
        ("y_base", {"y_base": mx.zeros((2, 9))}),
    ],
)
def test_the_door_refuses_operands_that_do_not_fit(field: str, change: dict[str, mx.array]) -> None:
    operands = {"packed": mx.zeros((1, 8, 2), mx.uint32)} | change
    with pytest.raises(TargetError) as caught:
        dispatch.sign_matmul(mx.zeros((2, 64)), **operands)
    assert caught.value.field == field


def test_parts_are_summed_and_rounded_once() -> None:
    case = Case("row", 2, 6, 40)
    values = np.random.default_rng(5).standard_normal((2, 6, 40)).astype(np.float32)
    parts = (dispatch.SignOperand(case.packed, **case.kwargs), dispatch.DenseOperand(mx.array(values)))
    x, slots, y_base = normal(3, 40), np.array([1, 0, -1]), normal(3, 6, seed=6)
    delta = case.dense + values
    want = np.array(y_base, dtype=np.float64)
    for m in (0, 1):
        want[m] += delta[slots[m]] @ np.array(x[m], dtype=np.float64)
    close(dispatch.add_parts(x, parts, y_base, mx.array(slots)), want)
    half = dispatch.add_parts(x, parts, y_base.astype(mx.bfloat16), mx.array(slots))
    close(half, want - np.array(y_base) + np.array(y_base.astype(mx.bfloat16).astype(mx.float32)), mx.bfloat16)
    np.testing.assert_allclose(np.array(dispatch.dense_delta(parts, 6, 40)), delta, atol=1e-6)
    with pytest.raises(TargetError, match="no parts"):
        dispatch.dense_delta((), 6, 40)
