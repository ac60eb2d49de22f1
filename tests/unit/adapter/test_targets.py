"""Which parameters are targets, in models with routers, shared experts, biases and shared modules."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gpt_oss, mixtral, qwen2_moe
from mlx_lm.models.switch_layers import SwitchGLU

from zen_mlx.adapter.layers import set_delta
from zen_mlx.adapter.targets import arrays, logical_shape, model_count, target_count, targets

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 128,
}
ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}


def in_layer(model: nn.Module, index: int = 1) -> set[str]:
    prefix = f"model.layers.{index}."
    return {name.removeprefix(prefix).removesuffix(".weight") for name in targets(model) if name.startswith(prefix)}


def test_mixtral_without_its_router() -> None:
    model = mixtral.Model(mixtral.ModelArgs(**COMMON, model_type="mixtral", num_local_experts=4, num_experts_per_tok=2))
    experts = {f"block_sparse_moe.switch_mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert in_layer(model) == ATTENTION | experts
    assert targets(model)["model.layers.1.block_sparse_moe.switch_mlp.down_proj.weight"] == (4, 64, 96)


def test_shared_experts_are_targets_and_their_gate_is_not() -> None:
    model = qwen2_moe.Model(
        qwen2_moe.ModelArgs(
            **COMMON, model_type="qwen2_moe", num_experts_per_tok=2, num_experts=4, moe_intermediate_size=32,
            shared_expert_intermediate_size=48,
        )
    )  # fmt: skip
    experts = {f"mlp.{kind}.{name}_proj" for kind in ("switch_mlp", "shared_expert") for name in ("gate", "up", "down")}
    assert in_layer(model) == ATTENTION | experts


def test_gpt_oss() -> None:
    model = gpt_oss.Model(
        gpt_oss.ModelArgs(
            num_hidden_layers=2, num_local_experts=4, hidden_size=64, intermediate_size=64, vocab_size=128
        )
    )
    assert in_layer(model) == ATTENTION | {f"mlp.experts.{name}_proj" for name in ("gate", "up", "down")}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 32)
        self.router = nn.Linear(32, 32)


def test_a_gate_without_experts_is_an_ordinary_layer() -> None:
    model = nn.Sequential(Block())
    assert set(targets(model)) == {"layers.0.gate.weight", "layers.0.router.weight"}


def test_only_what_lies_inside_the_layers() -> None:
    block = Block()
    block.layers = [nn.Linear(32, 64), nn.Embedding(4, 32), SwitchGLU(32, 16, 2)]
    assert set(targets(block)) == {"layers.0.weight"} | {f"layers.2.{n}_proj.weight" for n in ("gate", "up", "down")}
    assert target_count(block) == 32 * 64 + 3 * 2 * 32 * 16


def test_a_subclass_with_its_own_call_is_left_alone() -> None:
    class Fused(nn.Linear):
        def __call__(self, x: mx.array, y: mx.array) -> mx.array:
            return super().__call__(x) + y

    assert targets(nn.Sequential(Fused(8, 8), nn.Linear(8, 8))) == {"layers.1.weight": (8, 8)}


def test_a_shared_module_counts_once_under_its_first_name() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.Linear(8, 4), layer)
    assert targets(model) == {"layers.0.weight": (8, 8), "layers.1.weight": (4, 8)}
    assert model_count(model) == 72 + 36


def test_targets_keep_the_order_of_the_tree() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(targets(model)) == ["layers.0.layers.0.weight", "layers.0.layers.1.weight", "layers.1.weight"]


def test_a_delta_does_not_change_what_is_found() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    before = targets(model)
    set_delta(model.layers[0], ())
    assert targets(model) == before
    assert [name for name, *_ in arrays(model)] == [name for name, _ in tree_flatten(model.parameters())]


@pytest.mark.parametrize(
    "settings", [(32, 2, "affine"), (64, 3, "affine"), (32, 6, "affine"), (32, 4, "mxfp4"), (32, 8, "mxfp8")]
)
def test_quantized_shapes(settings: tuple[int, int, str]) -> None:
    group, bits, mode = settings
    layer = nn.Linear(192, 40)
    packed = nn.QuantizedLinear.from_linear(layer, group, bits, mode)
    assert logical_shape(packed) == logical_shape(layer) == (40, 192)
    assert model_count(packed) == model_count(layer)
