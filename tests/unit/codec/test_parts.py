"""Scales and parts: what each kind of scale means, and what planes do."""

import numpy as np
import pytest

from zen_mlx.codec.parts import DensePart, decode, decode_all, encode_sign
from zen_mlx.codec.scales import SCALES, expand_scales, fit_scales, scale_shapes
from zen_mlx.errors import ConfigError


def block_of(scale: str) -> int | None:
    return 32 if scale == "block" else None


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 1e-3).astype(np.float32)


def test_means_skip_zeros() -> None:
    delta = np.array([[1.0, -3.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, -0.0]], dtype=np.float32)
    assert fit_scales(delta, "tensor")[0].item() == 2.0
    assert fit_scales(delta, "row")[0].tolist() == [2.0, 0.0, 2.0]
    assert fit_scales(delta, "col")[0].tolist() == [1.5, 3.0, 0.0]
    assert fit_scales(delta, "block", 32)[0].tolist() == [[2.0], [0.0], [2.0]]


def test_blocks_end_short() -> None:
    delta = np.concatenate([np.full(32, 1.0), np.full(32, -2.0), np.full(6, 4.0)]).astype(np.float32)[None]
    assert fit_scales(delta, "block", 32)[0].tolist() == [[1.0, 2.0, 4.0]]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(5, 70), (3, 5, 33), (2, 2, 4, 8)])
def test_shapes_and_expansion(scale: str, shape: tuple[int, ...]) -> None:
    arrays = fit_scales(normal(*shape), scale, block_of(scale))
    assert tuple(array.shape for array in arrays) == scale_shapes(scale, shape, block_of(scale))
    assert np.broadcast_to(expand_scales(scale, arrays, shape, block_of(scale)), shape).shape == shape
    one = np.stack([a.reshape(-1, *a.shape[len(shape) - 2 :])[0] for a in arrays[:1]])[0]
    np.testing.assert_array_equal(
        one, fit_scales(normal(*shape).reshape(-1, *shape[-2:])[0], scale, block_of(scale))[0]
    )


def test_rowcol_recovers_a_rank_one_magnitude() -> None:
    rng = np.random.default_rng(3)
    row, col = np.exp(rng.normal(size=20)), np.exp(rng.normal(size=50))
    delta = (np.outer(row, col) * rng.choice([-1, 1], (20, 50))).astype(np.float32)
    delta[rng.random(delta.shape) < 0.2] = 0
    delta[4], delta[:, 7] = 0, 0
    (part,) = encode_sign(delta, "rowcol", dtype="f32")
    kept = delta != 0
    np.testing.assert_allclose(decode(part, delta.shape)[kept], delta[kept], rtol=1e-2)
    assert part.scales[0][4] == 0
    assert part.scales[1][7] == 0


def test_rowcol_is_the_least_squares_fit() -> None:
    magnitude = np.abs(normal(60, 90))
    row, col = fit_scales(magnitude, "rowcol")
    u, s, vt = np.linalg.svd(magnitude.astype(np.float64))
    best = np.linalg.norm(magnitude - s[0] * np.outer(u[:, 0], vt[0]))
    assert np.linalg.norm(magnitude - np.outer(row, col)) <= best * 1.0001
    assert row.mean() == pytest.approx(col.mean())


@pytest.mark.parametrize("scale", SCALES)
def test_each_plane_brings_the_delta_closer(scale: str) -> None:
    delta = normal(40, 130)
    errors = []
    for planes in (1, 2, 3, 4):
        parts = encode_sign(delta, scale, block_of(scale), planes)
        assert len(parts) == planes
        errors.append(np.linalg.norm(delta - decode_all(parts, delta.shape)))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.65 * np.linalg.norm(delta)


@pytest.mark.parametrize("scale", SCALES)
def test_a_plane_codes_the_rest_after_rounding(scale: str) -> None:
    delta = normal(2, 9, 70)
    first, second = encode_sign(delta, scale, block_of(scale), 2)
    rest = delta - decode(first, delta.shape)
    (alone,) = encode_sign(rest, scale, block_of(scale))
    np.testing.assert_array_equal(second.bits, alone.bits)
    for a, b in zip(second.scales, alone.scales, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_input_is_left_alone() -> None:
    delta = normal(5, 40)
    before = delta.copy()
    encode_sign(delta, planes=3)
    np.testing.assert_array_equal(delta, before)


@pytest.mark.parametrize("scale", SCALES)
def test_zero_delta_has_zero_scales(scale: str) -> None:
    delta = np.zeros((3, 40), dtype=np.float32)
    parts = encode_sign(delta, scale, block_of(scale), 2)
    assert not decode_all(parts, delta.shape).any()
    assert (parts[0].bits[:, 0] == 0xFFFFFFFF).all()


@pytest.mark.parametrize("factor", [1e9, 1e-9])
@pytest.mark.parametrize("scale", ["tensor", "row", "block"])
def test_scales_that_float16_cannot_hold_are_float32(factor: float, scale: str) -> None:
    delta = normal(4, 40) * np.float32(factor)
    (part,) = encode_sign(delta, scale, block_of(scale))
    assert part.dtype == "f32"
    assert encode_sign(normal(4, 40), scale, block_of(scale))[0].dtype == "f16"
    error = np.linalg.norm(delta - decode(part, delta.shape)) / np.linalg.norm(delta)
    assert error < 0.65


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("scale", SCALES)
def test_any_float_input(dtype: type, scale: str) -> None:
    delta = normal(6, 40).astype(dtype)
    (part,) = encode_sign(delta, scale, block_of(scale))
    (same,) = encode_sign(delta.astype(np.float32), scale, block_of(scale))
    np.testing.assert_array_equal(part.bits, same.bits)
    np.testing.assert_allclose(part.scales[0], same.scales[0], rtol=1e-3)


def test_dense_decodes_to_itself() -> None:
    values = normal(7).astype(np.float16)
    np.testing.assert_array_equal(decode(DensePart(values), (7,)), values.astype(np.float32))
    assert not decode_all([], (2, 3)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", SCALES)
def test_a_delta_that_is_not_finite_is_refused(bad: float, scale: str) -> None:
    delta = normal(4, 40)
    delta[2, 3] = bad
    with pytest.raises(ConfigError):
        encode_sign(delta, scale, block_of(scale))


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": "cell"},
        {"scale": "block"},
        {"scale": "block", "block": 48},
        {"scale": "row", "block": 32},
        {"planes": 0},
        {"planes": 17},
        {"dtype": "bf16"},
    ],
)
def test_unknown_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError):
        encode_sign(normal(4, 40), **settings)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ConfigError):
        encode_sign(normal(4))
