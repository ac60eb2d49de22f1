"""Few-layer bases with random weights that PEFT and zen_mlx read alike: checkpoints from names, shapes and a seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import foreign_files as files
import numpy as np

HIDDEN, WIDE, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, LAYERS, EXPERTS, EXPERT_WIDE = 32, 48, 4, 2, 8, 32, 2, 4, 16
TOKENS = [1, 30, 2, 19]
SEED = 5

TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCABULARY, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "attention_bias": False,
    "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0, "dtype": "float32",
}  # fmt: skip
MIXTURE: dict[str, Any] = {
    "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT_WIDE, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
VISION: dict[str, Any] = {
    "model_type": "qwen3_vl", "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
    "out_hidden_size": HIDDEN, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
ROPE = {"rope_type": "default", "type": "default", "mrope_section": [2, 1, 1]}
PLACES = {
    "dense": ("mlp", ("gate_proj", "up_proj", "down_proj")),
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
}
BASES: dict[str, dict[str, Any]] = {
    "dense": TEXT | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    "tied": TEXT | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True},
    "mixture": TEXT | MIXTURE | {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
    "biased": TEXT | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "mixtral": TEXT | {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "intermediate_size": EXPERT_WIDE,
        "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "sliding_window": None,
    },
    "vision": {
        "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"], "tie_word_embeddings": False,
        "text_config": TEXT | {"model_type": "qwen3_vl_text", "rope_scaling": ROPE}, "vision_config": VISION,
        "vocab_size": VOCABULARY, "dtype": "float32",
    },
}  # fmt: skip


def write_base(kind: str, folder: Path, tokenizer_of: Path | None = None) -> Path:
    """config.json and model.safetensors of the base `kind`, the same on every machine; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BASES[kind]))
    (folder / "model.safetensors").write_bytes(files.safetensors({n: ("F32", a) for n, a in weights(kind).items()}))
    for file in tokenizer_of.glob("tokenizer*") if tokenizer_of else ():
        shutil.copy(file, folder)
    return folder


def weights(kind: str) -> dict[str, np.ndarray]:
    """The checkpoint's arrays. `dense` and `vision` have the same text model."""
    random = np.random.RandomState(SEED)  # the legacy generator: its stream is frozen
    inside = "model.language_model." if kind == "vision" else "model."
    out = {}
    for name, shape in _shapes(kind):
        values = random.standard_normal(shape) * (0.1 if len(shape) == 1 else 0.2) + (len(shape) == 1)
        out[inside + name if name != "lm_head.weight" else name] = values.astype("<f4")
    return out


def _shapes(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    out: list[tuple[str, tuple[int, ...]]] = [("embed_tokens.weight", (VOCABULARY, HIDDEN)), ("norm.weight", (HIDDEN,))]
    for layer in range(LAYERS):
        at = f"layers.{layer}."
        queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        out += [(f"{at}self_attn.{name}_proj.weight", shape) for name, shape in {
            "q": (queries, HIDDEN), "k": (keys, HIDDEN), "v": (keys, HIDDEN), "o": (HIDDEN, queries),
        }.items()]  # fmt: skip
        out += [(f"{at}{name}_layernorm.weight", (HIDDEN,)) for name in ("input", "post_attention")]
        if kind == "biased":
            out += [
                (f"{at}self_attn.{name}_proj.bias", (rows,))
                for name, rows in zip("qkv", (queries, keys, keys), strict=True)
            ]
        elif kind != "mixtral":
            out += [(f"{at}self_attn.{name}_norm.weight", (HEAD_DIM,)) for name in "qk"]
        mlp, (gate, up, down) = PLACES.get(kind, PLACES["dense"])
        wide, places = WIDE, [""]
        if kind in ("mixture", "mixtral"):
            out.append((f"{at}{mlp}.gate.weight", (EXPERTS, HIDDEN)))
            wide, places = EXPERT_WIDE, [f"experts.{index}." for index in range(EXPERTS)]
        for place in places:
            out += [(f"{at}{mlp}.{place}{name}.weight", (wide, HIDDEN)) for name in (gate, up)]
            out.append((f"{at}{mlp}.{place}{down}.weight", (HIDDEN, wide)))
    return out if kind == "tied" else [*out, ("lm_head.weight", (VOCABULARY, HIDDEN))]
