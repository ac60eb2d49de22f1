"""Gradients of the product through the door, in x, y_base and every scale, against NumPy; alone and compiled."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.codec.pack import pack_signs
from zen_mlx.kernels import choice, dispatch, reference
from zen_mlx.kernels.operands import SignOperand

M, K, S = 5, 70, 2
NS = (9, 4, 6)


@pytest.fixture(params=["as chosen", "a kernel without derivatives"])
def _launch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a kernel whose result MLX cannot look into, as those on a GPU are."""
    if request.param == "as chosen":
        return

    def opaque(x, signs, y_bases, slots):
        return [mx.stop_gradient(y) for y in reference.launch(x, signs, y_bases, slots)]

    monkeypatch.setattr(choice, "kernels", lambda where: {"select": opaque})
    monkeypatch.setattr(choice, "_checks", {})
    monkeypatch.setattr(choice, "_chosen", {})


class Case:
    """Random operands; `signs` as f64 +-1."""

    def __init__(self, scale: str, slots: bool) -> None:
        random = np.random.default_rng(0)
        self.x = random.standard_normal((M, K)).astype(np.float32)
        self.signs = [random.choice([-1.0, 1.0], size=(S, n, K)) for n in NS]
        self.ys = [random.standard_normal((M, n)).astype(np.float32) for n in NS]
        self.weights = [random.standard_normal((M, n)).astype(np.float32) for n in NS]
        self.slots = np.array([1, 0, -1, 1, 5], dtype=np.int32) if slots else None
        self.scales: dict[str, list[np.ndarray]] = {}
        if "row" in scale:
            self.scales["row"] = [random.uniform(0.5, 1.5, (S, n)).astype(np.float32) for n in NS]
        if "col" in scale:
            self.scales["col"] = [random.uniform(0.5, 1.5, (S, K)).astype(np.float32) for _ in NS]
        if "block" in scale:
            self.scales["block"] = [random.uniform(0.5, 1.5, (S, n, 3)).astype(np.float32) for n in NS]

    def loss(self, x, ys, scales):
        """sum of weights * y, for MLX arrays."""
        planes = [
            SignOperand(mx.array(pack_signs(s)), **{name: values[i] for name, values in scales.items()})
            for i, s in enumerate(self.signs)
        ]
        found = dispatch.run(None, x, planes, ys, None if self.slots is None else mx.array(self.slots))
        return sum((mx.array(w) * y).sum() for w, y in zip(self.weights, found, strict=True))

    def gradients(self) -> tuple[np.ndarray, list[np.ndarray], dict[str, list[np.ndarray]]]:
        """d loss / d (x, ys, scales) in f64, one row and one weight at a time."""
        dx = np.zeros((M, K))
        scales = {name: [np.zeros(v.shape) for v in values] for name, values in self.scales.items()}
        for i, signs in enumerate(self.signs):
            full = {
                "row": self.scales["row"][i][:, :, None] if "row" in self.scales else np.ones((S, 1, 1)),
                "col": self.scales["col"][i][:, None, :] if "col" in self.scales else np.ones((S, 1, 1)),
                "block": np.repeat(self.scales["block"][i], 32, -1)[..., :K]
                if "block" in self.scales
                else np.ones((S, 1, 1)),
            }
            for m in range(M):
                slot = 0 if self.slots is None else self.slots[m]
                if not 0 <= slot < S:
                    continue
                w = self.weights[i][m].astype(np.float64)[:, None]
                everything = signs[slot] * full["row"][slot] * full["col"][slot] * full["block"][slot]
                dx[m] += (w * everything).sum(0)
                each = w * signs[slot] * self.x[m]
                if "row" in scales:
                    scales["row"][i][slot] += (each * full["col"][slot] * full["block"][slot]).sum(1)
                if "col" in scales:
                    scales["col"][i][slot] += (each * full["row"][slot] * full["block"][slot]).sum(0)
                if "block" in scales:
                    part = each * full["row"][slot] * full["col"][slot]
                    padded = np.pad(part, [(0, 0), (0, 96 - K)]).reshape(part.shape[0], 3, 32)
                    scales["block"][i][slot] += padded.sum(-1)
        return dx, [w.astype(np.float64) for w in self.weights], scales


@pytest.mark.usefixtures("_launch")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("scale", ["none", "row", "col", "row col", "block", "row block", "col block"])
def test_gradients(scale: str, slots: bool, compiled: bool) -> None:
    case = Case(scale, slots)
    gradient = mx.grad(case.loss, argnums=(0, 1, 2))
    scales = {name: [mx.array(v) for v in values] for name, values in case.scales.items()}
    arguments = mx.array(case.x), [mx.array(y) for y in case.ys], scales
    dx, dys, dscales = (mx.compile(gradient) if compiled else gradient)(*arguments)
    want_x, want_ys, want_scales = case.gradients()
    near(dx, want_x)
    for found, want in zip(dys, want_ys, strict=True):
        near(found, want)
    for name, wants in want_scales.items():
        for found, want in zip(dscales[name], wants, strict=True):
            near(found, want)


def near(found: mx.array, want: np.ndarray) -> None:
    assert found.shape == want.shape
    np.testing.assert_allclose(np.array(found), want, atol=2e-5 * max(1.0, float(np.abs(want).max())), rtol=0)


@pytest.mark.usefixtures("_launch")
def test_a_second_derivative() -> None:
    case = Case("row", False)
    scales = {"row": [mx.array(v) for v in case.scales["row"]]}
    ys = [mx.array(y) for y in case.ys]

    def squared(x):
        return case.loss(x, ys, scales) ** 2

    x = mx.array(case.x)
    twice = mx.grad(lambda x: mx.grad(squared)(x).sum())(x)
    dx, _, _ = case.gradients()
    near(twice, 2 * dx * dx.sum())
