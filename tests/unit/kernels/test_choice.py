"""Which kernel runs: the table, the environment, the self-test and what happens when it fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.errors import ConfigError, KernelError
from zen_mlx.kernels import choice, dispatch, reference
from zen_mlx.kernels.choice import KernelFallbackWarning, Route
from zen_mlx.kernels.operands import Launch, SignOperand

N, K = 12, 100


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(choice, "_checks", {})
    monkeypatch.setattr(choice, "_warned", set())
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.delenv("ZEN_KERNELS", raising=False)
    monkeypatch.delenv("ZEN_KERNEL_ROWS", raising=False)
    choice.settings.cache_clear()
    yield
    choice.settings.cache_clear()


class Kernel:
    """A launch that computes the equation, or something near it; `rows` of the calls, and how many were self-tests."""

    def __init__(self, off_by: float = 0.0, fails: bool = False) -> None:
        self.rows: list[int] = []
        self.tests = 0
        self.off_by, self.fails = off_by, fails

    def __call__(self, x, signs, y_bases, slots):
        if signs[0].packed.shape[1] == N:
            self.rows.append(x.shape[0])
        else:
            self.tests += 1
        if self.fails:
            raise RuntimeError("no such device")
        return [y + self.off_by for y in reference.launch(x, signs, y_bases, slots)]


def use(monkeypatch: pytest.MonkeyPatch, kernel: Launch, most_rows: int | None = 4) -> None:
    monkeypatch.setattr(choice, "kernels", lambda where: {"select": kernel})
    monkeypatch.setattr(choice, "ROUTES", {**choice.ROUTES, "cpu": (Route("select", most_rows),)})


def sign(seed: int = 0) -> SignOperand:
    random = np.random.default_rng(seed)
    words = random.integers(0, 2**32, (1, N, 4), dtype=np.uint32)
    words[..., -1] &= 15
    return SignOperand(mx.array(words), mx.array(random.uniform(0.5, 1.5, (1, N)).astype(np.float32)))


def product(rows: int, plane: SignOperand | None = None) -> tuple[mx.array, mx.array]:
    plane = plane or sign()
    x = mx.random.normal((rows, K))
    y_base = mx.random.normal((rows, N))
    ours = dispatch.sign_matmul(x, plane.packed, row=plane.row, y_base=y_base)
    return ours, reference.launch(x, [plane], [y_base], None)[0]


def same(pair: tuple[mx.array, mx.array]) -> None:
    np.testing.assert_allclose(np.array(pair[0]), np.array(pair[1]), atol=1e-4)


def test_the_table_decides_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    use(monkeypatch, kernel)
    for rows in (1, 4, 5):
        same(product(rows))
    assert kernel.rows == [1, 4]  # 5 rows are past the last route
    assert (
        [(c.kernel, c.reason) for c in choice.checks()] == [("select", None)] * kernel.tests == [("select", None)] * 2
    )


def test_thresholds_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    use(monkeypatch, kernel)
    monkeypatch.setenv("ZEN_KERNEL_ROWS", "wide=3,select=9")
    same(product(9))
    assert kernel.rows == [9]


@pytest.mark.parametrize("text", ["select", "select=", "select=-1", "select=1.5", "other=3", "=3"])
def test_a_threshold_that_cannot_be_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEN_KERNEL_ROWS", f"wide=3,{text}")
    with pytest.raises(ConfigError, match="ZEN_KERNEL_ROWS") as caught:
        product(1)
    assert caught.value.found == text


def test_another_word_for_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEN_KERNELS", "fast")
    with pytest.raises(ConfigError, match="auto, reference, native, custom"):
        product(1)


@pytest.mark.parametrize("word", ["reference", "native"])
def test_without_our_kernels(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    use(monkeypatch, kernel)
    monkeypatch.setenv("ZEN_KERNELS", word)
    seen: list[bool] = []
    plain = reference.sign_matmul

    def watched(*args, unpack=False, **kwargs):
        seen.append(unpack)
        return plain(*args, unpack=unpack, **kwargs)

    monkeypatch.setattr(reference, "sign_matmul", watched)
    x, plane = mx.random.normal((1, K)), sign()
    dispatch.sign_matmul(x, plane.packed)
    assert kernel.rows == []
    assert seen == [word == "reference"]


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (Kernel(off_by=0.5), "relative error"),
        (Kernel(off_by=float("nan")), "nan"),
        (Kernel(fails=True), "no such device"),
    ],
    ids=["wrong", "nan", "raises"],
)
def test_a_kernel_that_does_not_work(kernel: Kernel, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning that says which and why, and right answers."""
    use(monkeypatch, kernel)
    with pytest.warns(KernelFallbackWarning, match=f"cpu kernel select does not work here.*{reason}") as caught:
        same(product(2))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(product(2))
        same(product(1, sign(1)._replace(row=mx.ones((1, N)))))
    assert kernel.rows == []


def test_custom_means_custom(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Kernel(off_by=0.5))
    monkeypatch.setenv("ZEN_KERNELS", "custom")
    with pytest.raises(KernelError, match="the cpu kernel select fails here: relative error"):
        product(1)


def test_custom_without_the_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "kernels", lambda where: {})
    same(product(1))
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.setenv("ZEN_KERNELS", "custom")
    choice.settings.cache_clear()
    with pytest.raises(KernelError, match="the cpu kernel select is missing"):
        product(1)


def test_every_variant_is_tested_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    use(monkeypatch, kernel)
    plane = sign()
    x, slots = mx.random.normal((2, K)), mx.array([0, -1])
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        dispatch.sign_matmul(x.astype(dtype), plane.packed, row=plane.row)
        dispatch.sign_matmul(x.astype(dtype), plane.packed, row=plane.row, slots=slots)
    dispatch.sign_matmul(x, plane.packed, col=mx.ones((1, K)))
    dispatch.sign_matmul(x, plane.packed, block=mx.ones((1, N, 4)))
    dispatch.run(None, x, [plane, plane, plane], [None] * 3)
    forms = [c.variant for c in choice.checks()]
    assert len(forms) == len(set(forms)) == 9
    assert kernel.tests == 9


def test_a_self_test_within_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Kernel())
    plane = sign()
    x = mx.random.normal((2, K))
    compiled = mx.compile(lambda x: dispatch.sign_matmul(x, plane.packed, row=plane.row))
    same((compiled(x), reference.launch(x, [plane], [None], None)[0]))
    assert len(choice.checks()) == 1


def test_the_survey_says_what_runs_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Kernel())
    own, rest = choice.survey()
    assert (own.first_row, own.last_row, own.kernel, own.error) == (1, 4, "select", 0.0)
    assert (rest.first_row, rest.last_row, rest.kernel) == (5, None, choice.NATIVE)

    monkeypatch.setattr(choice, "_checks", {})
    use(monkeypatch, Kernel(fails=True), None)
    with pytest.warns(KernelFallbackWarning):
        (only,) = choice.survey()
    assert (only.kernel, only.instead_of, only.failed, only.last_row) == (choice.NATIVE, "select", True, None)
    assert only.reason is not None
    assert "no such device" in only.reason

    monkeypatch.setattr(choice, "kernels", lambda where: {})
    (only,) = choice.survey()
    assert (only.kernel, only.instead_of, only.failed) == (choice.NATIVE, "select", False)


def test_the_survey_of_a_forced_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEN_KERNELS", "native")
    (only,) = choice.survey()
    assert (only.kernel, only.reason) == (choice.NATIVE, "ZEN_KERNELS=native")
