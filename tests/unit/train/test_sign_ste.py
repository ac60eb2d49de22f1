"""Q(d) = (1 - lambda) d + lambda s(d) sign(d) in every kind of layer, and its gradient is that of the weight itself."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from zen_mlx.codec.parts import decode_all
from zen_mlx.config import BitDeltaConfig
from zen_mlx.train.sign_ste import (
    LatentLinear,
    LatentSwitchLinear,
    QuantizationRamp,
    block_scales,
    encode_latents,
    latent_layer,
    row_col_scales,
    scales,
)

BLOCKS = [None, 32]


def numpy_scale(d: np.ndarray, block: int | None) -> np.ndarray:
    size = np.abs(d)
    if block is None:
        row, col = size.mean(-1, keepdims=True), size.mean(-2, keepdims=True)
        return row * col / size.mean((-2, -1), keepdims=True)
    out = np.empty_like(d)
    for at in range(0, d.shape[-1], block):
        out[..., at : at + block] = size[..., at : at + block].mean(-1, keepdims=True)
    return out


def numpy_q(d: np.ndarray, share: float, block: int | None) -> np.ndarray:
    return (1 - share) * d + share * numpy_scale(d, block) * np.where(d >= 0, 1, -1)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(6, 40), (3, 6, 40), (5, 32)])
def test_scales_equal_numpy(shape: tuple[int, ...], block: int | None) -> None:
    d = random(*shape)
    full = np.broadcast_to(np.array(scales(mx.array(d), block)), shape)
    np.testing.assert_allclose(full, numpy_scale(d, block), rtol=1e-5)
    assert block_scales(mx.array(d), 32).shape == (*shape[:-1], -(-shape[-1] // 32))


def test_scales_of_nothing_are_zero() -> None:
    row, col = row_col_scales(mx.zeros((2, 3, 4)))
    assert not np.array(row).any()
    assert not np.array(col).any()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_and_its_gradient(share: float, block: int | None, bias: bool) -> None:
    base = nn.Linear(40, 6, bias=bias)
    at = QuantizationRamp()
    layer = latent_layer(base, (6, 40), block, at)
    assert isinstance(layer, LatentLinear)
    at.value = share
    d, x, upstream = random(6, 40), random(7, 40), random(7, 6)
    d[0, 0] = 0.0
    layer.latent = mx.array(d)
    weight = np.array(base.weight) + numpy_q(d, share, block)
    expected = x @ weight.T + (np.array(base.bias) if bias else 0)
    np.testing.assert_allclose(np.array(layer(mx.array(x))), expected, rtol=1e-4, atol=1e-4)

    def loss(latent: mx.array) -> mx.array:
        layer.latent = latent
        return (layer(mx.array(x)) * mx.array(upstream)).sum()

    np.testing.assert_allclose(np.array(mx.grad(loss)(mx.array(d))), upstream.T @ x, rtol=1e-4, atol=1e-4)


def test_an_input_s_gradient_goes_through_the_quantized_delta() -> None:
    base, at = nn.Linear(40, 6, bias=False), QuantizationRamp()
    layer = latent_layer(base, (6, 40), None, at)
    at.value, layer.latent = 1.0, mx.array(random(6, 40))
    grad = mx.grad(lambda x: layer(x).sum())(mx.array(random(3, 40)))
    weight = np.array(base.weight) + numpy_q(random(6, 40), 1.0, None)
    np.testing.assert_allclose(np.array(grad), np.tile(weight.sum(0), (3, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bf16", "quantized"])
def test_a_rounded_base_keeps_a_small_delta(kind: str) -> None:
    base: Any = nn.Linear(64, 8, bias=False)
    if kind == "bf16":
        base.weight = base.weight.astype(mx.bfloat16)
        weight = np.array(base.weight.astype(mx.float32))
    else:
        base = base.to_quantized(32, 4)
        weight = np.array(mx.dequantize(base.weight, base.scales, base.biases, 32, 4))
    at = QuantizationRamp()
    layer = latent_layer(base, (8, 64), None, at)
    at.value = 1.0
    d, x = 1e-5 * random(8, 64), random(3, 64)
    layer.latent = mx.array(d)
    np.testing.assert_allclose(
        np.array(layer(mx.array(x))), x @ (weight + numpy_q(d, 1.0, None)).T, rtol=1e-3, atol=1e-5
    )
    assert layer.weight is base.weight, "what the model asks of the layer is the base's"


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("block", BLOCKS)
def test_experts_and_their_gradient(quantized: bool, share: float, block: int | None) -> None:
    base: Any = SwitchLinear(64, 8, 4, bias=False)
    weight = np.array(base.weight)
    if quantized:
        base = base.to_quantized(32, 8)
        assert isinstance(base, QuantizedSwitchLinear)
        weight = np.array(mx.dequantize(base.weight, base.scales, base.biases, 32, 8))
    at = QuantizationRamp()
    layer = latent_layer(base, (4, 8, 64), block, at)
    assert isinstance(layer, LatentSwitchLinear)
    at.value = share
    d, x = random(4, 8, 64), random(5, 64)
    chosen = np.array([[0, 2], [2, 1], [0, 1], [2, 0], [1, 2]])
    full = weight + numpy_q(d, share, block)
    expected = np.stack([[full[e] @ row for e in some] for row, some in zip(x, chosen, strict=True)])

    def run(latent: mx.array) -> mx.array:
        layer.latent = latent
        return layer(mx.array(x)[:, None, None, :], mx.array(chosen))

    np.testing.assert_allclose(np.array(run(mx.array(d)))[:, :, 0], expected, rtol=1e-3, atol=1e-3)
    grad = np.array(mx.grad(lambda latent: run(latent).sum())(mx.array(d)))
    wanted = np.zeros_like(d)
    for row, some in zip(x, chosen, strict=True):
        for e in some:
            wanted[e] += row
    np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-4)
    assert not grad[3].any(), "an expert nobody chose"


@pytest.mark.parametrize("shape", [(6, 40), (3, 6, 40)])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-9])
def test_the_parts_are_q_of_the_latents(shape: tuple[int, ...], per_channel: bool, size: float) -> None:
    config = BitDeltaConfig(use_per_channel_scale=per_channel, block_size=32, sparsity_penalty=0.0)
    d = size * random(*shape)
    out = encode_latents({"w": mx.array(d), "zero": mx.zeros(shape)}, config)
    assert list(out) == ["w"], "a latent that never moved is not stored"
    kept = decode_all(out["w"].parts, shape)
    np.testing.assert_allclose(
        kept, numpy_q(d, 1.0, None if per_channel else 32), rtol=2e-3 if size > 1e-8 else 1e-2, atol=0
    )


def test_a_row_far_below_its_layer_s_mean_is_stored_as_zero() -> None:
    d = random(8, 64)
    d[3] *= 1e-4
    kept = {
        penalty: decode_all(
            encode_latents({"w": mx.array(d)}, BitDeltaConfig(sparsity_penalty=penalty))["w"].parts, d.shape
        )
        for penalty in (0.0, 0.001)
    }
    assert kept[0.0][3].all()
    assert not kept[0.001][3].any()
    assert kept[0.001][[0, 1, 2, 4, 5, 6, 7]].all()


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("block", BLOCKS)
def test_planes_code_what_is_left_over(count: int, block: int | None) -> None:
    base, at = nn.Linear(40, 6, bias=False), QuantizationRamp()
    layer = latent_layer(base, (6, 40), block, at, count)
    d, x, upstream = random(6, 40), random(7, 40), random(7, 6)
    layer.latent = mx.array(d)
    total, rest = np.zeros_like(d), d.copy()
    for _ in range(count):
        plane = numpy_scale(rest, block) * np.where(rest >= 0, 1, -1)
        total, rest = total + plane, rest - plane
    for share in (0.0, 0.5, 1.0):
        at.value = share
        weight = np.array(base.weight) + (1 - share) * d + share * total
        np.testing.assert_allclose(np.array(layer(mx.array(x))), x @ weight.T, rtol=1e-4, atol=1e-4)

    def loss(latent: mx.array) -> mx.array:
        layer.latent = latent
        return (layer(mx.array(x)) * mx.array(upstream)).sum()

    np.testing.assert_allclose(np.array(mx.grad(loss)(mx.array(d))), upstream.T @ x, rtol=1e-4, atol=1e-4)
    config = BitDeltaConfig(use_per_channel_scale=block is None, block_size=block or 128, sparsity_penalty=0.0)
    stored = encode_latents({"w": mx.array(d)}, config, count)["w"]
    assert len(stored.parts) == count
    np.testing.assert_allclose(decode_all(stored.parts, d.shape), total, atol=2e-3 * np.abs(total).max())
    one = encode_latents({"w": mx.array(d)}, config)["w"]
    assert (
        np.square(decode_all(stored.parts, d.shape) - d).sum()
        < 0.6 * np.square(decode_all(one.parts, d.shape) - d).sum()
    )
