"""Each kind of layer with a delta against dense float64 NumPy: y = W x + b + sum of deltas x, row by row."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear

from zen_mlx.adapter.layers import remove_delta, set_delta
from zen_mlx.adapter.resident import Resident
from zen_mlx.codec.parts import DensePart, SignPart
from zen_mlx.errors import TargetError
from zen_mlx.format.spec import DeltaTensor, Profile

N, K, E = 48, 96, 5
KINDS = ("tensor", "row", "col", "rowcol", "block")


def pack(signs: np.ndarray) -> np.ndarray:
    """signs +-1 [..., K] -> u32 [..., ceil(K/32)], column 32j+i at bit i of word j."""
    words = np.zeros((*signs.shape[:-1], -(-signs.shape[-1] // 32)), dtype=np.uint32)
    for j in range(signs.shape[-1]):
        words[..., j // 32] |= (signs[..., j] > 0).astype(np.uint32) << np.uint32(j % 32)
    return words


def sign_part(
    rng: np.random.Generator, shape: tuple[int, ...], scale: str, size: float = 0.3
) -> tuple[SignPart, np.ndarray]:
    """A random sign part and the float64 delta it stands for."""
    signs = rng.choice([-1.0, 1.0], size=shape)
    lead, n, k = shape[:-2], shape[-2], shape[-1]

    def draw(*tail: int) -> np.ndarray:
        return rng.uniform(0.1, 1.0, (*lead, *tail)).astype(np.float16)

    if scale == "tensor":
        scales: tuple[np.ndarray, ...] = (draw(),)
        factor = scales[0][..., None, None]
    elif scale == "row":
        scales = (draw(n),)
        factor = scales[0][..., None]
    elif scale == "col":
        scales = (draw(k),)
        factor = scales[0][..., None, :]
    elif scale == "rowcol":
        scales = (draw(n) * np.float16(size), draw(k))
        factor = scales[0].astype(np.float64)[..., None] * scales[1][..., None, :]
    else:
        scales = (draw(n, -(-k // 32)),)
        factor = np.repeat(scales[0], 32, axis=-1)[..., :k]
    part = SignPart(scale=scale, block=32 if scale == "block" else None, bits=pack(signs), scales=scales)
    return part, signs * factor.astype(np.float64)


def parts_for(rng: np.random.Generator, shape: tuple[int, ...], scales: tuple[str, ...]) -> tuple[tuple, np.ndarray]:
    """MLX parts and their summed float64 delta; the scale name `dense` gives a dense part."""
    stored, total = [], np.zeros(shape)
    for scale in scales:
        if scale == "dense":
            values = rng.standard_normal(shape).astype(np.float16)
            part, delta = DensePart(values), values.astype(np.float64)
        else:
            part, delta = sign_part(rng, shape, scale)
        stored.append(part)
        total += delta
    profile = Profile(
        info={"name": "t"}, base={}, metrics={}, target_count=1, model_count=1,
        tensors={"w": DeltaTensor(shape, tuple(stored))},
    )  # fmt: skip
    return Resident.from_profile(profile).tensors["w"].parts, total


COMBINATIONS = [(kind,) for kind in KINDS] + [("rowcol", "rowcol"), ("row", "block", "dense"), ("dense",)]


def layer_of(kind: str, bias: bool, k: int = K) -> nn.Module:
    mx.random.seed(3)
    if kind == "linear":
        layer: nn.Module = nn.Linear(k, N, bias=bias)
    elif kind == "quantized":
        layer = nn.QuantizedLinear.from_linear(nn.Linear(k, N, bias=bias), group_size=32, bits=4)
    elif kind == "switch":
        layer = SwitchLinear(k, N, E, bias=bias)
    else:
        layer = SwitchLinear(k, N, E, bias=bias).to_quantized(group_size=32, bits=4)
    if bias and kind in ("switch", "quantized-switch"):
        layer.bias = mx.random.normal((E, N))
    return layer


def dense_weight(layer: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    weight = layer.weight
    if "scales" in layer:
        weight = mx.dequantize(weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits)
    bias = layer.get("bias")
    return np.array(weight, dtype=np.float64), None if bias is None else np.array(bias, dtype=np.float64)


def near(y: mx.array, want: np.ndarray) -> None:
    assert y.shape == want.shape
    np.testing.assert_allclose(np.array(y), want, atol=2e-5 * max(1.0, np.abs(want).max()), rtol=0)


@pytest.mark.parametrize("scales", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["linear", "quantized"])
def test_linear(kind: str, bias: bool, scales: tuple[str, ...]) -> None:
    layer = layer_of(kind, bias)
    weight, b = dense_weight(layer)
    parts, delta = parts_for(np.random.default_rng(1), (N, K), scales)
    set_delta(layer, parts)
    for lead in ((), (1,), (2, 5), (1, 2, 3)):
        x = mx.random.normal((*lead, K))
        want = np.array(x, dtype=np.float64) @ (weight + delta).T
        near(layer(x), want if b is None else want + b)


def test_linear_with_a_ragged_width() -> None:
    layer = layer_of("linear", True, k=77)
    weight, b = dense_weight(layer)
    parts, delta = parts_for(np.random.default_rng(1), (N, 77), ("block", "rowcol"))
    set_delta(layer, parts)
    for rows in (1, 4):
        x = mx.random.normal((rows, 77))
        near(layer(x), np.array(x, dtype=np.float64) @ (weight + delta).T + b)


@pytest.mark.parametrize("scales", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["switch", "quantized-switch"])
def test_switch(kind: str, bias: bool, scales: tuple[str, ...]) -> None:
    """Token b, l sends x to its experts; also with one row per expert, and with rows sorted by expert."""
    layer = layer_of(kind, bias)
    weight, b = dense_weight(layer)
    parts, delta = parts_for(np.random.default_rng(2), (E, N, K), scales)
    set_delta(layer, parts)
    total = weight + delta
    indices = np.random.default_rng(0).integers(0, E, (2, 3, 2))

    x = mx.random.normal((2, 3, 1, 1, K))
    want = np.einsum("blenk,blk->blen", total[indices], np.array(x, dtype=np.float64)[:, :, 0, 0])
    want = want if b is None else want + b[indices]
    near(layer(x, mx.array(indices)), want[..., None, :])

    x = mx.random.normal((2, 3, 2, 1, K))
    want = np.einsum("blenk,blek->blen", total[indices], np.array(x, dtype=np.float64)[..., 0, :])
    want = want if b is None else want + b[indices]
    near(layer(x, mx.array(indices)), want[..., None, :])

    flat = np.sort(indices.reshape(-1))
    x = mx.random.normal((len(flat), 1, K))
    want = np.einsum("mnk,mk->mn", total[flat], np.array(x, dtype=np.float64)[:, 0])
    want = want if b is None else want + b[flat]
    near(layer(x, mx.array(flat), sorted_indices=True), want[:, None])


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("tokens", [3, 40])
def test_experts_below_and_above_the_sorting_threshold(tokens: int, quantized: bool) -> None:
    """mlx-lm sorts rows by expert from 64 indices on; the delta must follow the permuted rows."""
    mx.random.seed(0)
    glu = SwitchGLU(64, 32, 8)
    if quantized:
        nn.quantize(glu, group_size=32, bits=4)
    reference = SwitchGLU(64, 32, 8)
    for name in ("gate_proj", "up_proj", "down_proj"):
        layer = glu[name]
        weight, _ = dense_weight(layer)
        parts, delta = parts_for(np.random.default_rng(len(name)), weight.shape, ("rowcol",))
        reference[name].weight = mx.array((weight + delta).astype(np.float32))
        set_delta(layer, parts)
    x = mx.random.normal((1, tokens, 64))
    indices = mx.random.randint(0, 8, (1, tokens, 2))
    want = np.array(reference(x, indices))
    np.testing.assert_allclose(np.array(glu(x, indices)), want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["linear", "quantized", "switch", "quantized-switch"])
def test_a_layer_keeps_its_name_shape_and_parameters(kind: str) -> None:
    layer = layer_of(kind, True)
    base_class, names = type(layer), [name for name, _ in tree_flatten(layer.parameters())]
    weight = layer.weight
    shape = (E, N, K) if "switch" in kind else (N, K)
    parts, _ = parts_for(np.random.default_rng(0), shape, ("row",))
    set_delta(layer, parts)
    assert isinstance(layer, base_class)
    assert layer.weight is weight
    assert [name for name, _ in tree_flatten(layer.parameters())] == names
    assert not layer.children()
    for attribute in ("bits", "group_size", "mode", "input_dims", "output_dims", "num_experts"):
        assert hasattr(layer, attribute) == hasattr(base_class, attribute) or attribute in layer.__dict__
    assert base_class.__name__ in repr(layer)
    assert copy.deepcopy(layer).weight.shape == weight.shape
    remove_delta(layer)
    remove_delta(layer)
    assert type(layer) is base_class
    assert list(layer) == list(layer_of(kind, True))
    assert layer.weight is weight


@pytest.mark.parametrize("kind", ["linear", "switch"])
def test_quantizing_a_layer_with_a_delta_is_refused(kind: str) -> None:
    layer = layer_of(kind, False)
    set_delta(layer, ())
    with pytest.raises(TargetError, match="quantizing"):
        nn.quantize(nn.Sequential(layer), group_size=32, bits=4)


def test_an_empty_delta_is_the_base() -> None:
    for kind in ("linear", "quantized-switch"):
        layer = layer_of(kind, True)
        x = mx.random.normal((3, 1, K))
        arguments = (x,) if kind == "linear" else (x, mx.array([0, 4, 1]))
        before = layer(*arguments)
        set_delta(layer, ())
        assert mx.array_equal(layer(*arguments), before)


def test_a_compiled_function_follows_a_switch() -> None:
    layer = layer_of("linear", True)
    weight, b = dense_weight(layer)
    x = mx.random.normal((2, K))
    traces = []

    def run(x: mx.array) -> mx.array:
        traces.append(1)
        return layer(x)

    set_delta(layer, ())
    compiled = mx.compile(run, inputs=[layer.state])
    for seed in (1, 2):
        parts, delta = parts_for(np.random.default_rng(seed), (N, K), ("rowcol",))
        set_delta(layer, parts)
        near(compiled(x), np.array(x, dtype=np.float64) @ (weight + delta).T + b)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", ["linear", "quantized", "switch", "quantized-switch"])
def test_gradient_of_the_input(kind: str) -> None:
    layer = layer_of(kind, True)
    weight, _ = dense_weight(layer)
    shape = (E, N, K) if "switch" in kind else (N, K)
    parts, delta = parts_for(np.random.default_rng(0), shape, ("rowcol", "block"))
    set_delta(layer, parts)
    total, rng = weight + delta, np.random.default_rng(9)
    indices = np.array([4, 0, 0, 2])
    g = rng.standard_normal((4, N)).astype(np.float32)
    x = mx.array(rng.standard_normal((4, K)).astype(np.float32))
    if "switch" in kind:
        got = mx.grad(lambda x: (layer(x[:, None], mx.array(indices))[:, 0] * mx.array(g)).sum())(x)
        want = np.einsum("mn,mnk->mk", g, total[indices])
    else:
        got = mx.grad(lambda x: (layer(x) * mx.array(g)).sum())(x)
        want = g @ total
    np.testing.assert_allclose(np.array(got), want, atol=1e-4)


def test_half_precision_rounds_once() -> None:
    """bf16 and f16 outputs stay within one rounding of y_base plus one of the sum."""
    for dtype, unit in ((mx.float16, 2.0**-11), (mx.bfloat16, 2.0**-8)):
        layer = layer_of("linear", False)
        layer.set_dtype(dtype)
        parts, delta = parts_for(np.random.default_rng(0), (N, K), ("rowcol", "rowcol"))
        weight = np.array(layer.weight.astype(mx.float32), dtype=np.float64)
        x = mx.random.normal((4, K)).astype(dtype)
        x64 = np.array(x.astype(mx.float32), dtype=np.float64)
        set_delta(layer, parts)
        y = layer(x)
        assert y.dtype == dtype
        want = x64 @ (weight + delta).T
        bound = 2.5 * unit * max(np.abs(want).max(), np.abs(x64 @ weight.T).max())
        np.testing.assert_allclose(np.array(y.astype(mx.float32)), want, atol=bound)


def test_layers_of_another_kind_of_experts_share_the_mixin() -> None:
    layer = layer_of("quantized-switch", False)
    set_delta(layer, ())
    assert isinstance(layer, QuantizedSwitchLinear)
    assert (layer.input_dims, layer.output_dims, layer.num_experts) == (K, N, E)
