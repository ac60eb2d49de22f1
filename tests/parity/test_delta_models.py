"""Whole mlx-lm models with a profile on them against the same models with W + D computed in NumPy."""

from __future__ import annotations

import gc
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.models import llama, qwen3, qwen3_moe
from mlx_lm.utils import quantize_model

from zen_mlx.adapter import attach as door
from zen_mlx.adapter.attach import Resident, attach, attached, detach, model_count, switch, target_count, targets
from zen_mlx.codec.parts import DensePart, decode_all, encode_sign
from zen_mlx.errors import ConfigError, TargetError
from zen_mlx.format.spec import DeltaTensor, Profile

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 128,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
KINDS = ("llama", "qwen3", "qwen3_moe")


def build(kind: str, bits: int | None = None, dtype: mx.Dtype = mx.float32, tied: bool = False) -> nn.Module:
    """A tiny model with the same random weights at every call."""
    mx.random.seed(7)
    sizes = SIZES | {"model_type": kind, "tie_word_embeddings": tied}
    if kind == "llama":
        model: nn.Module = llama.Model(llama.ModelArgs(**sizes, attention_bias=True, mlp_bias=True))
    elif kind == "qwen3":
        model = qwen3.Model(qwen3.ModelArgs(**sizes))
    else:
        model = qwen3_moe.Model(qwen3_moe.ModelArgs(**(sizes | EXPERTS)))
    model.set_dtype(dtype)
    if bits is not None:
        model, _ = quantize_model(model, {}, group_size=32, bits=bits)
    mx.eval(model.parameters())
    return model


def profile_for(model: nn.Module, seed: int = 0, size: float = 0.05, norms: bool = True, **settings: Any) -> Profile:
    """A random profile over every target but one, and over some norms and biases."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in targets(model).items():
        if name.endswith("0.self_attn.v_proj.weight"):
            continue
        delta = rng.standard_normal(shape).astype(np.float32) * size
        tensors[name] = DeltaTensor(shape, tuple(encode_sign(delta, **settings)))
    if norms:
        for name, array in tree_flatten(model.parameters()):
            if name.endswith((".bias", "layernorm.weight", "model.norm.weight", "q_norm.weight")):
                values = (rng.standard_normal(array.shape) * size).astype(np.float16)
                tensors[name] = DeltaTensor(tuple(array.shape), (DensePart(values),))
    return Profile(
        info={"name": f"p{seed}"},
        base={},
        metrics={},
        target_count=target_count(model),
        model_count=model_count(model),
        tensors=tensors,
    )


def replaced(model: nn.Module, profile: Profile) -> nn.Module:
    """The model with every named weight replaced by dense W + D, dequantized where it must be."""
    for name, tensor in profile.tensors.items():
        path, key = name.rsplit(".", 1)
        module = model
        for part in path.split("."):
            module = module[int(part)] if isinstance(module, list) else module[part]
        delta = decode_all(tensor.parts, tensor.shape)
        if "scales" in module and key == "weight":
            weight = mx.dequantize(
                module.weight, module.scales, module.get("biases"), group_size=module.group_size, bits=module.bits
            )
            twin = dense_twin(module, weight.shape)
            twin.weight = mx.array(np.array(weight) + delta)
            if "bias" in module:
                twin.bias = module.bias
            put(model, path, twin)
        else:
            module[key] = mx.array(np.array(module[key]) + delta)
    return model


def dense_twin(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias="bias" in module)
    return qwen3_moe.SwitchGLU(shape[2], shape[1], shape[0]).gate_proj


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    *parents, last = path.split(".")
    owner: Any = model
    for part in parents:
        owner = owner[int(part)] if isinstance(owner, list) else owner[part]
    setattr(owner, last, module)


@cache
def prompt(length: int) -> mx.array:
    return mx.array(np.random.default_rng(3).integers(0, 128, (1, length)))


def snapshot(model: nn.Module) -> tuple[dict[str, tuple[int, bytes]], list[tuple[str, type, int]]]:
    """Identity and bytes of every array, and class and identity of every module."""
    arrays = {name: (id(a), bytes(memoryview(mx.view(a, mx.uint8)))) for name, a in tree_flatten(model.parameters())}
    return arrays, [(name, type(module), id(module)) for name, module in model.named_modules()]


def tokens(model: nn.Module, count: int = 6) -> list[int]:
    return [int(token) for token, _ in generate_step(prompt(9)[0], model, max_tokens=count)]


SETTINGS = [
    {"scale": "tensor"},
    {"scale": "row"},
    {"scale": "col"},
    {"scale": "rowcol"},
    {"scale": "block", "block": 64},
    {"scale": "rowcol", "planes": 2},
    {"scale": "block", "block": 32, "planes": 3, "dtype": "f32"},
]


@pytest.mark.parametrize("mode", ["merged", "unmerged"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(str(v) for v in s.values()))
@pytest.mark.parametrize("kind", KINDS)
def test_attached_equals_replaced_weights(kind: str, settings: dict[str, Any], mode: str) -> None:
    """With 9 and with 40 tokens: below and above the 64 indices from which experts' rows are sorted."""
    model = build(kind)
    profile = profile_for(model, **settings)
    want = replaced(build(kind), profile)
    before = model(prompt(9))
    attach(model, Resident.from_profile(profile), mode)
    for length in (1, 9, 40):
        expected = np.array(want(prompt(length)))
        np.testing.assert_allclose(np.array(model(prompt(length))), expected, atol=2e-4 * np.abs(expected).max())
    assert not np.allclose(np.array(before), np.array(model(prompt(9))), atol=1e-2)
    assert tokens(model) == tokens(want)


@pytest.mark.parametrize("kind", KINDS)
def test_four_bit_base(kind: str) -> None:
    model = build(kind, bits=4)
    profile = profile_for(model)
    want = replaced(build(kind, bits=4), profile)
    state = snapshot(model)
    resident = Resident.from_profile(profile)
    with pytest.raises(TargetError, match="cannot take a merged delta"):
        attach(model, resident, "merged")
    assert snapshot(model) == state
    attach(model, resident)
    for length in (1, 9, 40):
        expected = np.array(want(prompt(length)))
        np.testing.assert_allclose(np.array(model(prompt(length))), expected, atol=2e-4 * np.abs(expected).max())
    detach(model)
    assert snapshot(model) == state


@pytest.mark.parametrize("mode", ["merged", "unmerged"])
@pytest.mark.parametrize("kind", KINDS)
def test_detach_restores_every_bit(kind: str, mode: str) -> None:
    model = build(kind)
    state, said, logits = snapshot(model), tokens(model), model(prompt(9))
    names = [name for name, _ in tree_flatten(model.parameters())]
    for seed in (0, 1):
        resident = Resident.from_profile(profile_for(model, seed))
        assert attach(model, resident, mode) is model
        assert attached(model) is resident
        assert [name for name, _ in tree_flatten(model.parameters())] == names
    assert tokens(model) != said
    assert detach(model) is model
    assert attached(model) is None
    assert snapshot(model) == state
    assert tokens(model) == said
    assert mx.array_equal(model(prompt(9)), logits)
    detach(model)
    assert snapshot(model) == state


@pytest.mark.parametrize("mode", ["merged", "unmerged"])
def test_switching_back_and_forth(mode: str) -> None:
    """Profiles that name different tensors leave nothing behind in each other."""
    model = build("qwen3_moe")
    first, second = profile_for(model, 1), profile_for(model, 2, norms=False)
    for name in list(second.tensors)[::2]:
        del second.tensors[name]
    a, b = Resident.from_profile(first, consume=False), Resident.from_profile(second, consume=False)
    base = model(prompt(9))
    want = {r: np.array(replaced(build("qwen3_moe"), p)(prompt(9))) for r, p in ((a, first), (b, second))}
    attach(model, a, mode)
    for resident in (b, a, None, b, b, None, a):
        switch(model, resident)
        assert attached(model) is resident
        if resident is None:
            assert mx.array_equal(model(prompt(9)), base)
        else:
            limit = 2e-4 * np.abs(want[resident]).max()
            np.testing.assert_allclose(np.array(model(prompt(9))), want[resident], atol=limit)


def test_switch_without_attach() -> None:
    model = build("llama")
    state = snapshot(model)
    switch(model, None)
    assert snapshot(model) == state
    resident = Resident.from_profile(profile_for(model))
    switch(model, resident)
    assert attached(model) is resident


def test_unmerged_switching_touches_no_target_weight() -> None:
    model = build("qwen3")
    weights = {name: id(a) for name, a in tree_flatten(model.parameters()) if name in targets(model)}
    a, b = (Resident.from_profile(profile_for(model, seed)) for seed in (1, 2))
    attach(model, a, "unmerged")
    switch(model, b)
    assert {name: id(x) for name, x in tree_flatten(model.parameters()) if name in targets(model)} == weights


def test_an_evicted_profile_is_freed() -> None:
    model = build("qwen3")
    a, b = (Resident.from_profile(profile_for(model, seed)) for seed in (1, 2))
    attach(model, a, "unmerged")
    switch(model, b)
    plans = door._attachment(model).plans
    assert len(plans) == 2
    del a
    gc.collect()
    assert len(plans) == 1
    switch(model, None)
    del b
    gc.collect()
    assert len(plans) == 0


def test_changing_the_mode_of_an_attached_model() -> None:
    model = build("llama")
    state = snapshot(model)
    resident = Resident.from_profile(profile_for(model))
    attach(model, resident, "unmerged")
    unmerged = np.array(model(prompt(9)))
    attach(model, resident, "merged")
    assert all("BitDelta" not in type(m).__name__ for _, m in model.named_modules())
    np.testing.assert_allclose(np.array(model(prompt(9))), unmerged, atol=1e-4 * np.abs(unmerged).max())
    attach(model, resident, "unmerged")
    np.testing.assert_array_equal(np.array(model(prompt(9))), unmerged)
    detach(model)
    assert snapshot(model) == state


def test_auto_merges_into_f32_on_the_cpu_only() -> None:
    for model, merged in (
        (build("qwen3"), True),
        (build("qwen3", dtype=mx.bfloat16), False),
        (build("qwen3", 4), False),
    ):
        weight = model.model.layers[1].mlp.up_proj.weight
        attach(model, Resident.from_profile(profile_for(model)))
        merges = merged and door.backend() == "cpu"
        assert (model.model.layers[1].mlp.up_proj.weight is not weight) == merges


def test_a_merge_that_rounds_the_delta_away_is_refused() -> None:
    model = build("qwen3", dtype=mx.bfloat16)
    state = snapshot(model)
    small = Resident.from_profile(profile_for(model, size=1e-5))
    with pytest.raises(TargetError, match="round the delta away") as caught:
        attach(model, small, "merged")
    assert caught.value.found is not None
    assert float(caught.value.found.rstrip("%")) > 5
    assert snapshot(model) == state

    large = Resident.from_profile(profile_for(model, size=0.1))
    attach(model, large, "merged")
    assert model.model.layers[1].mlp.up_proj.weight.dtype == mx.bfloat16
    now = snapshot(model)
    with pytest.raises(TargetError):
        switch(model, small)
    assert snapshot(model) == now
    assert attached(model) is large
    detach(model)
    assert snapshot(model) == state


@pytest.mark.parametrize("mode", ["merged", "unmerged"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.9.self_attn.q_proj.weight", (128, 64)),
        ("model.layers.1.self_attn.q_proj", (128, 64)),
        ("model.layers.1.self_attn.q_proj.weight", (64, 128)),
        ("model.layers.1.self_attn.q_proj.weight", (128, 32)),
        ("model.norm.weight", (63,)),
        ("nothing.weight", (4, 4)),
    ],
)
def test_a_failed_attach_changes_nothing(name: str, shape: tuple[int, ...], mode: str) -> None:
    for active in (False, True):
        model = build("qwen3")
        good = Resident.from_profile(profile_for(model))
        if active:
            attach(model, good, mode)
        state = snapshot(model)
        profile = profile_for(model, 1)
        profile.tensors[name] = DeltaTensor(shape, (DensePart(np.zeros(shape, dtype=np.float16)),))
        bad = Resident.from_profile(profile)
        for put_on in (lambda m, r: attach(m, r, mode), switch):
            with pytest.raises(TargetError) as caught:
                put_on(model, bad)
            assert caught.value.field == name
            assert snapshot(model) == state
            assert attached(model) is (good if active else None)


def test_unknown_mode() -> None:
    model = build("qwen3")
    with pytest.raises(ConfigError, match="mode"):
        attach(model, Resident.from_profile(profile_for(model)), "magic")


def test_embedding_and_head_are_replaced_only_where_named() -> None:
    model = build("qwen3")
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    profile = profile_for(model)
    attach(model, Resident.from_profile(profile, consume=False), "unmerged")
    assert model.model.embed_tokens.weight is embedding
    assert model.lm_head.weight is head
    rng = np.random.default_rng(1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        delta = rng.standard_normal((128, 64)).astype(np.float32) * 0.05
        profile.tensors[name] = DeltaTensor((128, 64), tuple(encode_sign(delta, "row")))
    want = np.array(replaced(build("qwen3"), profile)(prompt(9)))
    resident = Resident.from_profile(profile, consume=False)
    for mode in ("unmerged", "merged"):
        attach(model, resident, mode)
        np.testing.assert_allclose(np.array(model(prompt(9))), want, atol=2e-4 * np.abs(want).max())
    detach(model)
    assert model.model.embed_tokens.weight is embedding

    quantized = build("qwen3", bits=4)
    state = snapshot(quantized)
    with pytest.raises(TargetError, match="cannot take a delta") as caught:
        attach(quantized, resident)
    assert caught.value.field in ("model.embed_tokens.weight", "lm_head.weight")
    assert snapshot(quantized) == state


def test_a_tied_embedding_moves_the_head_too() -> None:
    model = build("qwen3", tied=True)
    delta = np.random.default_rng(1).standard_normal((128, 64)).astype(np.float16)
    name = "model.embed_tokens.weight"
    profile = Profile(
        info={}, base={}, metrics={}, target_count=1, model_count=1,
        tensors={name: DeltaTensor((128, 64), (DensePart(delta),))},
    )  # fmt: skip
    want = np.array(replaced(build("qwen3", tied=True), profile)(prompt(5)))
    attach(model, Resident.from_profile(profile))
    np.testing.assert_allclose(np.array(model(prompt(5))), want, atol=1e-4 * np.abs(want).max())


def test_routers_are_not_targets_but_may_be_named() -> None:
    model = build("qwen3_moe")
    name = "model.layers.0.mlp.gate.weight"
    assert name not in targets(model)
    profile = profile_for(model)
    values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float16)
    profile.tensors[name] = DeltaTensor((8, 64), (DensePart(values),))
    want = np.array(replaced(build("qwen3_moe"), profile)(prompt(9)))
    attach(model, Resident.from_profile(profile), "unmerged")
    np.testing.assert_allclose(np.array(model(prompt(9))), want, atol=2e-4 * np.abs(want).max())


def test_consume_empties_the_profile_and_nbytes_counts() -> None:
    model = build("qwen3")
    profile = profile_for(model)
    kept = Resident.from_profile(profile, consume=False)
    assert profile.tensors
    resident = Resident.from_profile(profile)
    assert not profile.tensors
    assert resident.name == "p0"
    assert resident.digest is None
    assert resident.nbytes == kept.nbytes > target_count(model) / 8


@pytest.mark.parametrize("kind", KINDS)
def test_targets_and_counts_do_not_depend_on_quantization(kind: str) -> None:
    dense, packed = build(kind), build(kind, bits=4)
    assert targets(dense) == targets(packed)
    assert model_count(dense) == model_count(packed) == sum(a.size for _, a in tree_flatten(dense.parameters()))
    per_layer = 7
    assert len(targets(dense)) == 2 * per_layer
    assert not any("embed" in name or "head" in name or name.endswith("gate.weight") for name in targets(dense))
    attach(dense, Resident.from_profile(profile_for(dense)), "unmerged")
    assert targets(dense) == targets(packed)
    assert model_count(dense) == model_count(packed)
