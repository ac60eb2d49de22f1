"""Fits that know the activations: against brute force, and against the plain ones for C = 1."""

from __future__ import annotations

import numpy as np
import pytest

from zen_mlx.codec.factor import decode_factor
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.pack import pack_signs
from zen_mlx.codec.scales import expand_scales, fit_scales
from zen_mlx.codec.svd import weighted_factors
from zen_mlx.codec.weighted import fit_weighted
from zen_mlx.errors import ConfigError

KINDS = [("tensor", None), ("row", None), ("col", None), ("rowcol", None), ("block", 32)]


def made(seed: int, n: int = 24, k: int = 80, tokens: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A delta, and C of inputs of very different sizes that hang together."""
    rng = np.random.default_rng(seed)
    delta = (rng.standard_normal((n, k)) * rng.lognormal(0, 0.7, k)).astype(np.float32)
    x = (rng.standard_normal((tokens, k)) * rng.lognormal(0, 1, k)) @ (np.eye(k) + 0.3 * rng.standard_normal((k, k)))
    return delta, (x.T @ x / tokens).astype(np.float32)


def lost(delta: np.ndarray, kept: np.ndarray, moment: np.ndarray) -> float:
    rest = (delta - kept).astype(np.float64)
    return float(np.einsum("nk,kl,nl->", rest, moment, rest))


@pytest.mark.parametrize(("scale", "block"), KINDS)
def test_no_scale_loses_less(scale: str, block: int | None) -> None:
    delta, moment = made(1)
    signs = np.where(delta >= 0, 1.0, -1.0)
    found = fit_weighted(delta, pack_signs(delta), moment, scale, block)
    assert all((array >= 0).all() for array in found)
    best = lost(delta, expand_scales(scale, found, delta.shape, block) * signs, moment)
    plain = fit_scales(delta, scale, block)
    assert best < lost(delta, expand_scales(scale, plain, delta.shape, block) * signs, moment)
    rng = np.random.default_rng(0)
    for _ in range(40):  # a least squares fit: every step away from it loses more
        moved = tuple(np.maximum(a * (1 + 0.02 * rng.standard_normal(a.shape)), 0).astype(np.float32) for a in found)
        other = lost(delta, expand_scales(scale, moved, delta.shape, block) * signs, moment)
        assert other > best * (0.9995 if scale == "rowcol" else 1)  # which alternates, three times


@pytest.mark.parametrize(("scale", "block"), KINDS)
def test_without_correlations_they_are_the_plain_scales(scale: str, block: int | None) -> None:
    delta, _ = made(2)
    found = fit_weighted(delta, pack_signs(delta), np.eye(delta.shape[1], dtype=np.float32), scale, block)
    tolerance = 5e-3 if scale == "rowcol" else 1e-3
    for ours, plain in zip(found, fit_scales(delta, scale, block), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=tolerance)


def test_every_expert_has_its_own() -> None:
    delta, moment = made(3)
    both = np.stack([delta, -2 * delta[::-1]])
    found = fit_weighted(both, pack_signs(both), moment, "rowcol")
    assert [array.shape for array in found] == [(2, 24), (2, 80)]
    for index in range(2):
        alone = fit_weighted(both[index], pack_signs(both[index]), moment, "rowcol")
        np.testing.assert_allclose(found[0][index], alone[0], rtol=1e-5)


def test_the_factors_are_the_best_in_the_norm_of_what_comes_out() -> None:
    delta, moment = made(4)
    root = np.linalg.cholesky(moment.astype(np.float64) + 1e-9 * np.eye(len(moment)))
    _, values, _ = np.linalg.svd(delta @ root)
    for rank in (1, 5, 11):
        left, right, found = weighted_factors(delta, rank, moment)
        np.testing.assert_allclose(found, values[:rank], rtol=1e-3)
        assert lost(delta, left.T @ right, moment) == pytest.approx(float((values[rank:] ** 2).sum()), rel=1e-3)


def test_quantized_factors_lose_less_with_the_moment() -> None:
    delta, moment = made(5)
    for groups in ([(4, 6)], [(8, 2), (4, 4), (2, 6)], [(16, 4)]):
        plain = decode_factor(encode_svd(delta, groups), delta.shape)
        aware = decode_factor(encode_svd(delta, groups, moment=moment), delta.shape)
        assert lost(delta, aware, moment) < lost(delta, plain, moment)
        assert lost(delta, plain, np.eye(80)) <= lost(delta, aware, np.eye(80))


def test_a_singular_moment_is_no_trouble() -> None:
    delta, moment = made(6, tokens=7)
    left, right, _ = weighted_factors(delta, 7, moment)
    assert lost(delta, left.T @ right, moment) < 1e-4 * lost(delta, 0 * delta, moment)
    for scale, block in KINDS:
        found = fit_weighted(delta, pack_signs(delta), moment, scale, block)
        assert all(np.isfinite(array).all() for array in found)


def test_a_moment_of_another_size_is_refused() -> None:
    delta, moment = made(7)
    with pytest.raises(ConfigError) as caught:
        encode_svd(delta, [(4, 2)], moment=moment[:5, :5])
    assert caught.value.field == "moment"
    with pytest.raises(ConfigError):
        encode_svd(delta, [(4, 2)], v=np.ones(80, np.float32), moment=moment)
