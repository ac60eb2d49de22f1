"""Tiny configurations of mlx-lm's model families, and folders of such models with random weights and a tokenizer."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

# What a family's `ModelArgs` knows of these it gets; the sizes are small and most of them different.
COMMON: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 258, "max_position_embeddings": 512, "rope_theta": 1e4,
    "rms_norm_eps": 1e-6, "layer_norm_eps": 1e-5, "norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "norm_epsilon": 1e-5,
    "tie_word_embeddings": False, "rope_traditional": False, "partial_rotary_factor": 0.5, "rope_scaling": None,
    "attention_bias": False, "mlp_bias": False, "use_bias": False, "sliding_window": 8,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
    "shared_intermediate_size": 48,
    # latent attention
    "kv_lora_rank": 16, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    # state spaces and linear attention
    "state_size": 8, "conv_kernel": 4, "use_conv_bias": True, "time_step_rank": 4, "n_groups": 1, "num_heads": 4,
    "time_step_limit": [0.0, 100.0], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_conv": 4,
    "mamba_n_groups": 1, "mamba_proj_bias": False, "mamba_conv_bias": True, "mamba_expand": 2, "mamba_d_ssm": 128,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4, "full_attention_interval": 2,
    "embedding_multiplier": 1.0, "attention_multiplier": 0.25, "residual_multiplier": 1.0, "logits_scaling": 1.0,
    # GPT-2's names
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_ctx": 512, "n_inner": 96,
}  # fmt: skip

# What a family needs beside or against that.
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {"post_norm": False, "qk_norm": True},
    "cohere": {},
    "cohere2": {"num_hidden_layers": 4},
    "dbrx": {
        "d_model": 64, "n_layers": 2, "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
    },
    "deepseek_v2": {
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "mscale": 1.0,
                         "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1},
        "topk_method": "greedy",
    },
    "deepseek_v3": {},
    "dots1": {},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 0},
    "exaone4": {"sliding_window_pattern": "LG", "sliding_window": 8},
    "falcon_h1": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {"num_hidden_layers": 6},
    "glm4": {},
    "glm4_moe": {"use_qk_norm": True},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.25},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
    "granitemoe": {},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "internlm2": {"bias": False},
    "jamba": {
        "attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2,
        "layers_block_type": ["mamba", "attention"],
    },
    "kimi_linear": {
        "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1], "num_heads": 4, "head_dim": 16,
                               "short_conv_kernel_size": 4},
        "model_max_length": 512, "num_experts_per_token": 2, "num_shared_experts": 1,
    },
    "lfm2": {
        "conv_bias": False, "conv_L_cache": 3, "block_dim": 64, "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "block_ff_dim": 96,
        "layer_types": ["conv", "full_attention"],
    },
    "lfm2_moe": {
        "conv_bias": False, "conv_L_cache": 3, "use_expert_bias": True, "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"],
    },
    "llama": {"attention_bias": True},
    "llama4_text": {"intermediate_size_mlp": 96, "no_rope_layers": [1, 0], "use_qk_norm": True},
    "mamba": {"intermediate_size": 128},
    "mamba2": {"intermediate_size": 64, "tie_word_embeddings": True},
    "minimax": {"rotary_dim": 8},
    "mixtral": {},
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "*", "-"], "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8,
    },
    "olmo2": {},
    "olmo3": {"num_hidden_layers": 4, "rope_theta": 500000.0},
    "olmoe": {},
    "phi": {},
    "phi3": {},
    "phimoe": {
        "rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8, "long_mscale": 1.0, "short_mscale": 1.0},
    },
    "qwen": {"intermediate_size": 192, "kv_channels": 16, "no_bias": True},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_moe": {},
    "qwen3_next": {},
    "recurrent_gemma": {
        "conv1d_width": 4, "logits_soft_cap": 30.0, "attention_window_size": 8, "block_types": ["recurrent", "attention"],
        "num_key_value_heads": 1,
    },
    "rwkv7": {"head_dim": 32, "a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
    "smollm3": {},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": False},
    "starcoder2": {},
}  # fmt: skip


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    """config.json of a tiny model of the family."""
    known = {field.name for field in dataclasses.fields(importlib.import_module(f"mlx_lm.models.{family}").ModelArgs)}
    settings = {name: value for name, value in COMMON.items() if name in known}
    return settings | {"model_type": family, "eos_token_id": 257} | FAMILIES[family] | changes


def build_model(config: dict[str, Any], seed: int = 1) -> nn.Module:
    """The model of that configuration, f32: weights as mlx-lm starts them, every vector and every array of zeros random too."""
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(seed)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    weights = []
    for name, value in tree_flatten(model.parameters()):
        if (value.ndim < 2 or not value.any().item()) and mx.issubdtype(value.dtype, mx.floating):
            value = value.astype(mx.float32) + 0.1 * mx.random.normal(value.shape)
        weights.append((name, value))
    model.load_weights(weights)
    mx.eval(model.parameters())
    return model.eval()


def save_model(model: nn.Module, config: dict[str, Any], folder: Path, tokenizer_of: Path) -> Path:
    """A model folder with the tokenizer of another; returns it."""
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_of / file, folder / file)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"}
    )
    return folder
