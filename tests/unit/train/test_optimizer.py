"""AdamW against NumPy in float64; the penalties do what they say."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.train.optimizer import BETA1, BETA2, EPS, AdamState, global_norm, update


def run(start: np.ndarray, grads: list[np.ndarray], **options: float) -> tuple[np.ndarray, AdamState]:
    latents = {"w": mx.array(start.astype(np.float32))}
    state = AdamState()
    for grad in grads:
        update(latents, {"w": mx.array(grad.astype(np.float32))}, state, **options)
    return np.array(latents["w"]), state


def numpy_run(
    d: np.ndarray, grads: list[np.ndarray], rate: float, grad_scale: float, l2: float, l1: float
) -> np.ndarray:
    m = v = np.zeros_like(d)
    for step, grad in enumerate(grads, 1):
        g = grad * grad_scale
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
        d = d - rate * (m / (1 - BETA1**step)) / (np.sqrt(v / (1 - BETA2**step)) + EPS)
        size = np.abs(d) * (1 - rate * l2) - rate * l1 * np.abs(d).mean()
        d = np.where(d >= 0, 1, -1) * np.maximum(size, 0)
    return d


@pytest.mark.parametrize(("l2", "l1"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.3, 0.4)])
def test_steps_equal_numpy(l2: float, l1: float) -> None:
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(6, 9)), [rng.normal(size=(6, 9)) for _ in range(5)]
    found, state = run(start, grads, rate=0.05, grad_scale=0.25, l2=l2, l1=l1)
    np.testing.assert_allclose(found, numpy_run(start, grads, 0.05, 0.25, l2, l1), rtol=1e-5, atol=1e-6)
    assert state.step == 5
    assert set(state.m) == set(state.v) == {"w"}


def test_penalties_shrink_and_never_cross_zero() -> None:
    start = np.array([[2.0, -2.0, 0.01, -0.01]])
    still = [np.zeros_like(start)]
    plain, _ = run(start, still, rate=0.1, grad_scale=1.0, l2=0.0, l1=0.0)
    np.testing.assert_allclose(plain, start, rtol=1e-6)
    l2, _ = run(start, still, rate=0.1, grad_scale=1.0, l2=0.5, l1=0.0)
    np.testing.assert_allclose(l2, start * 0.95, rtol=1e-6)
    l1, _ = run(start, still, rate=0.1, grad_scale=1.0, l2=0.0, l1=0.5)
    pull = 0.1 * 0.5 * 1.005
    np.testing.assert_allclose(l1, [[2 - pull, pull - 2, 0, 0]], rtol=1e-6)


def test_gradients_are_used_up_and_measured() -> None:
    grads = {"a": mx.array([[3.0]]), "b": mx.array([[0.0, 4.0]])}
    assert global_norm(grads) == pytest.approx(5.0)
    latents = {"a": mx.zeros((1, 1)), "b": mx.zeros((1, 2))}
    update(latents, grads, AdamState(), rate=0.1, grad_scale=1.0, l2=0.0, l1=0.0)
    assert grads == {}
    assert latents["a"].item() == pytest.approx(-0.1)
