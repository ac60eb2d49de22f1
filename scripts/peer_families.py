"""tests/golden/families/*.json: model folders as transformers 5 saves them, with its own logits in f32.

Run it with PyTorch and transformers: `.peers/bin/python scripts/peer_families.py` (`scripts/peers` makes that environment).
A file holds config.json, name and shape of each stored tensor, a seed, a row of tokens and the logits. Weights are not
stored: `tests/seeded_weights.py` makes them from the seed and a tensor's name, the same here and in the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.seeded_weights import seeded_weights

OUT = ROOT / "tests" / "golden" / "families"
SEED = 11
TOKENS = [1, 5, 60, 33, 17, 3, 42, 8, 9, 31, 2, 50]
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 3000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 3000.0, "factor": 4.0, "original_max_position_embeddings": 64}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
ROPE = {"rope_type": "default", "rope_theta": 3000.0}
BY_LAYER = {"full_attention": ROPE, "sliding_attention": ROPE}
PARTIAL = {**ROPE, "partial_rotary_factor": 0.5}
MLA = {
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "head_dim": 8,
    "num_key_value_heads": 4,
}

PLAIN = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "olmo2",
    "starcoder2",
    "seed_oss",
    "hunyuan_v1_dense",
    "granite",
    "cohere",
    "ernie4_5",
    "apertus",
    "helium",
)

# file -> (model type, what differs from SMALL; None leaves a key out)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"rope_parameters": ROPE}) for name in PLAIN},
    "llama.llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama.linear": ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
    "llama.yarn": ("llama", {"rope_parameters": YARN}),
    "qwen2.yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3.yarn": ("qwen3", {"rope_parameters": YARN}),
    "phi": ("phi", {"rope_parameters": PARTIAL, "head_dim": None}),
    "phi3": ("phi3", {"rope_parameters": ROPE, "head_dim": None}),
    "phi3.partial": ("phi3", {"rope_parameters": PARTIAL, "head_dim": None}),
    "cohere2": ("cohere2", {"rope_parameters": ROPE, "num_hidden_layers": 4, "sliding_window": 6}),
    "exaone4": ("exaone4", {"rope_parameters": ROPE, "num_hidden_layers": 4, "sliding_window": 6}),
    "smollm3": ("smollm3", {"rope_parameters": ROPE, "num_hidden_layers": 4}),
    "mixtral": ("mixtral", {"rope_parameters": ROPE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm": ("glm", {"rope_parameters": PARTIAL}),
    "glm4": ("glm4", {"rope_parameters": PARTIAL}),
    "glm4_moe": (
        "glm4_moe",
        {
            "rope_parameters": PARTIAL,
            **EXPERTS,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
        },
    ),
    "deepseek_v2": ("deepseek_v2", {"rope_parameters": ROPE, **EXPERTS, **MLA, "topk_method": "greedy"}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": ROPE, **EXPERTS, **MLA}),
    "deepseek_v3.yarn": (
        "deepseek_v3",
        {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, **EXPERTS, **MLA},
    ),
    "gpt_oss": ("gpt_oss", {"rope_parameters": YARN, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss.untruncated": (
        "gpt_oss",
        {"rope_parameters": {**YARN, "truncate": False}, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "nemotron": ("nemotron", {"rope_parameters": PARTIAL}),
    "qwen2_moe": (
        "qwen2_moe",
        {"rope_parameters": ROPE, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
    ),
    "qwen3_moe": ("qwen3_moe", {"rope_parameters": ROPE, **EXPERTS, "num_experts": 4}),
    "olmoe": ("olmoe", {"rope_parameters": ROPE, "num_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": ("granitemoe", {"rope_parameters": ROPE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo3": ("olmo3", {"num_hidden_layers": 4, "sliding_window": 6, "rope_parameters": BY_LAYER}),
    "stablelm": ("stablelm", {"rope_parameters": PARTIAL, "head_dim": None}),
    "gpt_neox": (
        "gpt_neox",
        {"rope_parameters": PARTIAL, "intermediate_size": 128, "head_dim": None, "num_key_value_heads": None},
    ),
    "gpt2": ("gpt2", {"n_inner": 128, "head_dim": None}),
    "gemma3_text": (
        "gemma3_text",
        {
            "hidden_size": 64,  # its root is exact in bf16, to which mlx-lm rounds it
            "num_hidden_layers": 6,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 3000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "lfm2": ("lfm2", {"rope_parameters": ROPE, "head_dim": None, "layer_types": ["conv", "full_attention"]}),
}


def main() -> None:
    """Write the cases named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {', '.join(CASES)}")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    for name in args.cases or CASES:
        try:
            text = json.dumps(case(*CASES[name]), sort_keys=True, separators=(",", ":"))
        except Exception as error:  # one family that transformers cannot make is not the end of the others
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{name}: {len(text)} bytes")


def case(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The document of one family."""
    import torch
    import transformers

    values = {key: value for key, value in (SMALL | changes).items() if value is not None}
    config = transformers.AutoConfig.for_model(kind, **values)
    causal: Any = transformers.AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        causal.from_config(config, dtype=torch.float32).save_pretrained(folder)
        shapes = stored_shapes(Path(folder))
        for file in Path(folder).glob("model*"):
            file.unlink()
        save_file(seeded_weights(shapes, SEED), Path(folder) / "model.safetensors", {"format": "pt"})
        model = causal.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = model(torch.tensor([TOKENS])).logits[0]
        saved = json.loads((Path(folder) / "config.json").read_text())
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    rows = [[float(f"{value:.8g}") for value in row] for row in logits.tolist()]
    return {"config": saved, "shapes": shapes, "seed": SEED, "tokens": TOKENS, "logits": rows, "versions": versions}


def stored_shapes(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of the tensors that `save_pretrained` wrote."""
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="numpy") as handle:
            names: list[str] = list(handle.keys())
            shapes |= {name: handle.get_slice(name).get_shape() for name in names}
    return shapes


if __name__ == "__main__":
    main()
