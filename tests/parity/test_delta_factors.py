"""Parts of low rank on layers and models: y = (W + U l V^T) x for every number of bits, against float64 NumPy."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from zen_mlx.adapter.layers import set_delta
from zen_mlx.adapter.merge import merge
from zen_mlx.adapter.resident import Resident
from zen_mlx.codec.factor_encode import encode_factor
from zen_mlx.codec.parts import SignPart, decode, encode_sign
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.kernels.dispatch import add_parts

GROUPS = ([[1, 5]], [[2, 6]], [[4, 7]], [[8, 3]], [[16, 4]], [[32, 2]], [[16, 1], [8, 2], [4, 3], [2, 4], [1, 5]])


def tensor_of(shape: tuple[int, ...], groups: list[list[int]], ends: bool, residual: bool = False) -> DeltaTensor:
    random = np.random.default_rng(0)
    rank = sum(g for _, g in groups)
    *lead, n, k = shape
    left = random.standard_normal((*lead, n, rank)).astype(np.float32)
    right = random.standard_normal((*lead, k, rank)).astype(np.float32)
    u = random.uniform(0.5, 1.5, (*lead, n)).astype(np.float32) if ends else None
    v = random.uniform(0.5, 1.5, (*lead, k)).astype(np.float32) if ends else None
    parts = [encode_factor(left, right, groups, u, v, dtype="f32" if ends else "f16")]
    if residual:
        parts += encode_sign(random.standard_normal(shape).astype(np.float32), "rowcol")
    return DeltaTensor(shape, tuple(parts))


def resident(tensor: DeltaTensor):
    profile = Profile(info={}, base={}, metrics={}, target_count=1, model_count=1, tensors={"w": tensor})
    return Resident.from_profile(profile).tensors["w"]


def dense(tensor: DeltaTensor) -> np.ndarray:
    return np.sum([decode(part, tensor.shape).astype(np.float64) for part in tensor.parts], axis=0)


def near(y: mx.array, want: np.ndarray, tolerance: float = 2e-5) -> None:
    assert y.shape == want.shape
    np.testing.assert_allclose(np.array(y.astype(mx.float32)), want, atol=tolerance * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("shape", [(64, 96), (50, 33), (7, 160), (33, 7)], ids=str)
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_linear(groups: list[list[int]], ends: bool, shape: tuple[int, int]) -> None:
    if sum(g for _, g in groups) > min(shape):
        groups = [[groups[0][0], min(shape)]]
    tensor = tensor_of(shape, groups, ends, residual=ends)
    delta = dense(tensor)
    mx.random.seed(0)
    layer = nn.Linear(shape[1], shape[0])
    weight, bias = np.array(layer.weight, np.float64), np.array(layer.bias, np.float64)
    found = resident(tensor)
    for lead in ((), (3,), (2, 5)):
        x = mx.random.normal((*lead, shape[1]))
        base = nn.Linear(shape[1], shape[0])
        base.weight, base.bias = layer.weight, layer.bias
        set_delta(base, found.parts)
        near(base(x), np.array(x, np.float64) @ (weight + delta).T + bias)
    near(merge(layer.weight, found), weight + delta)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_experts(groups: list[list[int]]) -> None:
    tensor = tensor_of((4, 40, 64), groups, True)
    delta = dense(tensor)
    mx.random.seed(0)
    layer = SwitchLinear(64, 40, 4, bias=False)
    weight = np.array(layer.weight, np.float64)
    indices = np.random.default_rng(1).integers(0, 4, (2, 3, 2))
    x = mx.random.normal((2, 3, 1, 1, 64))
    found = resident(tensor)
    set_delta(layer, found.parts)
    want = np.einsum("blenk,blk->blen", (weight + delta)[indices], np.array(x, np.float64)[:, :, 0, 0])
    near(layer(x, mx.array(indices)), want[..., None, :])
    near(merge(mx.array(weight.astype(np.float32)), found), weight + delta)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_slot_ids_and_types(groups: list[list[int]]) -> None:
    tensor = tensor_of((3, 32, 64), groups, True)
    parts = resident(tensor).parts
    slots = np.array([2, -1, 0, 3, 1, 1])
    for dtype, tolerance in ((mx.float32, 2e-5), (mx.bfloat16, 2.0**-8), (mx.float16, 2.0**-10)):
        x = mx.random.normal((6, 64)).astype(dtype)
        y = mx.random.normal((6, 32)).astype(dtype)
        want = np.array(y.astype(mx.float32), np.float64)
        for m, slot in enumerate(slots):
            if 0 <= slot < 3:
                want[m] += dense(tensor)[slot] @ np.array(x.astype(mx.float32), np.float64)[m]
        found = add_parts(x, parts, y, mx.array(slots))
        assert found.dtype == dtype
        near(found, want, tolerance)


def test_gradients_and_compile() -> None:
    """Training through a profile of low rank, compiled or not."""
    tensor = tensor_of((24, 64), GROUPS[-1], True, residual=True)
    parts, delta = resident(tensor).parts, dense(tensor)
    weight = mx.random.normal((5, 24))
    x, y = mx.random.normal((5, 64)), mx.random.normal((5, 24))
    gradient = mx.grad(lambda x: (add_parts(x, parts, y) * weight).sum())
    near(gradient(x), np.array(weight, np.float64) @ delta)
    near(mx.compile(gradient)(x), np.array(weight, np.float64) @ delta)
    assert isinstance(tensor.parts[1], SignPart)
