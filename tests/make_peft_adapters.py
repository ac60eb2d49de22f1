"""tests/golden/peft: adapters as PEFT itself writes them, each with PEFT's logits on a base of peft_bases.py.

    scripts/peers --help                                   says how the environment .peers is made
    .peers/bin/python tests/make_peft_adapters.py          writes every folder anew
    .peers/bin/python tests/make_peft_adapters.py --to X   elsewhere, to compare

A folder has PEFT's adapter_config.json and adapter_model.safetensors, and case.json: {base, versions, logits}. The logits are
those of the adapter loaded again by PEFT from these very files, in f32, for peft_bases.TOKENS.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from peft_bases import BASES, TOKENS, write_base

PLACE = Path(__file__).parent / "golden" / "peft"
ATTENTION = ["q_proj", "v_proj"]
EXPERTS = ["gate_proj", "up_proj", "down_proj"]
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
NAMES = {
    r"layers\.0\.self_attn\.q_proj": 3,
    r"(?:.*\.)?layers\.[1-9]\d*\.self_attn\.(?:q|k)_proj": 1,
    "o_pro[j]": 5,
    r"^model\.layers\.0\.(?!mlp).*\.v_proj": 4,
    r"(?i:LAYERS)\.1\.mlp\.\w+": 2,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("dense", {"target_modules": ATTENTION, "lora_alpha": 3}),
    "rslora": ("dense", {"target_modules": ["o_proj", "down_proj"], "use_rslora": True, "lora_alpha": 5}),
    "patterns": (
        "dense",
        {"target_modules": "all-linear", "rank_pattern": NAMES, "alpha_pattern": {k: 2 * v + 1 for k, v in NAMES.items()}},
    ),
    "patterns-overlap": ("dense", {"target_modules": ATTENTION, "alpha_pattern": {"q_proj": 8, "0.self_attn.q_proj": 1}}),
    "head-and-embedding": ("dense", {"target_modules": [*ATTENTION, "embed_tokens", "lm_head"]}),
    "embedding": ("dense", {"target_modules": ["embed_tokens"]}),
    "saved-embeddings": ("dense", {"target_modules": ATTENTION}),
    "saved-embeddings-tied": ("tied", {"target_modules": ATTENTION}),
    "modules-to-save": ("dense", {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]}),
    "vision": ("vision", {"target_modules": ["q_proj", "down_proj"], "alpha_pattern": {r"language_model\.layers\.0\..*": 1}}),
    "experts": ("mixture", {"target_modules": [*ATTENTION, *EXPERTS]}),
    "experts-rslora": ("mixture", {"target_modules": EXPERTS, "use_rslora": True}),
    "experts-both": ("mixture", {"target_modules": ATTENTION, "target_parameters": BOTH, "rank_pattern": {"down_proj": 3}}),
    "experts-down": ("mixture", {"target_modules": [], "target_parameters": ["experts.down_proj"]}),
    "experts-gate-up": ("mixture", {"target_modules": [], "target_parameters": ["experts.gate_up_proj"]}),
    "router": ("mixture", {"target_modules": [], "target_parameters": ["mlp.gate.weight"], "rank_pattern": {"gate.weight": 1}}),
    "parameter-of-a-layer": ("dense", {"target_modules": ["v_proj"], "target_parameters": ["q_proj.weight"]}),
    "refused-dora": ("dense", {"target_modules": ["q_proj"], "use_dora": True}),
    "refused-tokens": ("dense", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}),
    "refused-lora-bias": ("dense", {"target_modules": ["q_proj"], "lora_bias": True}),
    "bias-all": ("biased", {"target_modules": ATTENTION, "bias": "all"}),
    "mixtral": ("mixtral", {"target_modules": ["q_proj", "w1", "w2", "w3"]}),
    "mixtral-router": ("mixtral", {"target_modules": [], "target_parameters": ["mlp.gate.weight", "experts.down_proj"]}),
    "tied-together": ("tied", {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    "tied-saved-together": (
        "tied",
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "refused-tied-saved": ("tied", {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]}),
    "refused-tied-head": ("tied", {"target_modules": [*ATTENTION, "lm_head"]}),
    "refused-tied": ("tied", {"target_modules": ["embed_tokens"]}),
}  # fmt: skip
SAVED_EMBEDDINGS = {"saved-embeddings", "saved-embeddings-tied"}


def make(name: str, to: Path, bases: Path) -> None:
    torch, peft = import_module("torch"), import_module("peft")
    base, options = CASES[name]
    config = peft.LoraConfig(**{"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"} | options)
    model = peft.get_peft_model(load(bases / base), config)
    torch.manual_seed(sorted(CASES).index(name))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.requires_grad or "trainable_tokens" in key:
                value.copy_(torch.randn_like(value) * 0.3)
    folder = to / name
    model.save_pretrained(folder, save_embedding_layers=True if name in SAVED_EMBEDDINGS else "auto")
    (folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = base  # else a folder of the machine that made it
    for key, value in settings.items():
        settings[key] = (
            sorted(value) if key.startswith("target_") and isinstance(value, list) else value
        )  # sets to PEFT
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    again = peft.PeftModel.from_pretrained(load(bases / base), str(folder)).eval()
    names = ("torch", "transformers", "peft")
    case = {
        "base": base,
        "versions": {each: import_module(each).__version__ for each in names},
        "logits": logits(again),
    }
    (folder / "case.json").write_text(json.dumps(case) + "\n")


def load(folder: Path) -> Any:
    torch, transformers = import_module("torch"), import_module("transformers")
    kind = getattr(transformers, BASES[folder.name]["architectures"][0])
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> list[list[float]]:
    torch = import_module("torch")
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([TOKENS])).logits[0].tolist()
    return [[float(f"{value:.9g}") for value in row] for row in found]  # nine digits tell every f32 apart


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the adapters that the tests compare with.")
    parser.add_argument("--to", type=Path, default=PLACE, help="folder to write to (tests/golden/peft)")
    parser.add_argument("names", nargs="*", help="only these")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        for base in BASES:
            write_base(base, Path(place) / base)
        for name in wanted.names or CASES:
            make(name, wanted.to, Path(place))


if __name__ == "__main__":
    main()
