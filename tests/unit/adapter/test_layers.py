"""q, k and v share a launch, and so do gate and up; whoever is called otherwise computes alone, and right."""

from __future__ import annotations

import copy
import gc
import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama, qwen3_moe
from mlx_lm.models.cache import make_prompt_cache

from zen_mlx.adapter.attach import attach, detach, switch
from zen_mlx.adapter.resident import Resident
from zen_mlx.bench.synthetic import random_profile
from zen_mlx.kernels import dispatch

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def model_of(kind: str) -> nn.Module:
    mx.random.seed(0)
    if kind == "llama":
        model: nn.Module = llama.Model(llama.ModelArgs.from_dict(LLAMA))
    else:
        model = qwen3_moe.Model(qwen3_moe.ModelArgs.from_dict(MOE))
    mx.eval(model.parameters())
    return model


def resident(model: nn.Module, seed: int = 0, scale: str = "row") -> Resident:
    return Resident.from_profile(random_profile(model, "p", seed, scale, amplitude=0.02))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of projections of every launch made."""
    seen: list[int] = []
    plain = dispatch.run

    def counted(launch, x, signs, y_bases, slots=None):
        seen.append(len(signs))
        return plain(launch, x, signs, y_bases, slots)

    monkeypatch.setattr(dispatch, "run", counted)
    return seen


def same(a: mx.array, b: mx.array) -> None:
    np.testing.assert_allclose(np.array(a), np.array(b), atol=2e-4 * float(mx.abs(b).max()), rtol=0)


@pytest.mark.parametrize(("kind", "wanted"), [("llama", [3, 1, 2, 1] * 2), ("moe", [3, 1, 2, 1])])
def test_four_launches_a_layer(kind: str, wanted: list[int], launches: list[int]) -> None:
    model = model_of(kind)
    profile = resident(model)
    tokens = mx.array([[3, 7, 9]])
    attach(model, profile, "merged")
    merged = model(tokens)
    assert launches == []
    attach(model, profile, "unmerged")
    same(model(tokens), merged)
    assert launches == wanted


def test_with_a_cache_and_compiled(launches: list[int]) -> None:
    model = model_of("llama")
    first, second = resident(model), resident(model, 1)
    attach(model, first, "unmerged")
    compiled = mx.compile(lambda t: model(t), inputs=model.state)
    tokens = mx.array([[1, 2, 3, 4]])
    same(compiled(tokens), model(tokens))
    switch(model, second)
    traced = len(launches)
    y = compiled(tokens)
    mx.eval(y)
    assert len(launches) == traced  # followed the switch without a new trace
    same(y, model(tokens))
    cache = make_prompt_cache(model)
    parts = [model(tokens[:, i : i + 1], cache=cache) for i in range(4)]
    same(mx.concatenate(parts, axis=1), y)


def test_different_forms_are_launched_apart(launches: list[int]) -> None:
    model = model_of("llama")
    rows, cols = resident(model), resident(model, 1, "col")
    mixed = Resident("mixed", None, {n: (cols if "k_proj" in n else rows).tensors[n] for n in rows.tensors})
    attach(model, mixed, "merged")
    merged = model(mx.array([[5, 6]]))
    attach(model, mixed, "unmerged")
    same(model(mx.array([[5, 6]])), merged)
    assert launches[:3] == [1, 1, 1]


def test_a_call_with_another_input_computes_alone() -> None:
    model = model_of("llama")
    attention = model.layers[0].self_attn
    profile = resident(model)
    a, b = mx.random.normal((1, 2, 64)), mx.random.normal((1, 2, 64))
    attach(model, profile, "merged")
    wanted = [attention.q_proj(a), attention.k_proj(b), attention.v_proj(a), attention.q_proj(b)]
    mx.eval(wanted)
    attach(model, profile, "unmerged")
    for _ in range(2):
        found = [attention.q_proj(a), attention.k_proj(b), attention.v_proj(a), attention.q_proj(b)]
        for x, y in zip(found, wanted, strict=True):
            same(x, y)


def test_a_switch_between_two_siblings_is_seen() -> None:
    model = model_of("llama")
    attention = model.layers[0].self_attn
    x = mx.random.normal((1, 1, 64))
    base = attention.k_proj(x)
    attach(model, resident(model), "unmerged")
    attention.q_proj(x)
    switch(model, None)
    assert mx.array_equal(attention.k_proj(x), base)
    detach(model)
    assert not any("siblings" in key for key in attention.q_proj.__dict__)


def test_nothing_is_kept_alive_and_copies_are_whole() -> None:
    model = model_of("llama")
    attach(model, resident(model), "unmerged")
    tokens = mx.array([[1, 2]])
    want = model(tokens)
    twin = copy.deepcopy(model)
    same(twin(tokens), want)
    x = mx.random.normal((1, 1, 64))
    mlp = model.layers[0].mlp
    mx.eval(mlp(x))
    watcher = weakref.ref(x)
    del x
    gc.collect()
    assert watcher() is None
