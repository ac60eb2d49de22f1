"""Fine-tunes of every kind of checkpoint, from folders on disk: compressed, applied, switched, exported, taken back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.families import build_model, config_of, save_model
from zen_mlx.adapter.targets import targets
from zen_mlx.base.load import load_model
from zen_mlx.codec.parts import DensePart, RowsPart, SignPart, decode_all
from zen_mlx.format.spec import Profile
from zen_mlx.manager import ZenPersonalizationManager

IDS = mx.array([[1, 5, 9, 200, 17, 3, 77, 8, 64, 31, 2]])
UNUSED = 2  # the expert that no token was routed to
Weights = dict[str, mx.array]


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    """Compiled functions are built by a C++ compiler on the CPU: seconds each."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def write(folder: Path, config: dict[str, Any], weights: Weights, tokenizer_of: Path) -> Path:
    """A model folder, experts one by one as on the hub."""
    save_model(build_model(config), config, folder, tokenizer_of)
    mx.save_safetensors(str(folder / "model.safetensors"), on_the_hub(weights, config["model_type"]))
    return folder


def on_the_hub(weights: Weights, family: str) -> Weights:
    out: Weights = {}
    for name, value in weights.items():
        match = re.fullmatch(r"(.+\.)switch_mlp\.(gate|up|down)_proj\.weight", name)
        if match is None:
            out[name] = value
            continue
        w = {"gate": "w1", "down": "w2", "up": "w3"}[match[2]]
        last = w if family in ("mixtral", "phimoe", "minimax") else f"{match[2]}_proj"
        for expert, each in enumerate(value):
            out[f"{match[1]}experts.{expert}.{last}.weight"] = mx.contiguous(each)
    return out


def tuned_from(
    weights: Weights, seed: int = 3, size: float = 0.02, skip: Callable[[str], bool] = lambda _: False
) -> Weights:
    """Every floating array moved a little; the unused expert of stacked ones stays."""
    rng = np.random.default_rng(seed)
    out: Weights = {}
    for name, value in weights.items():
        if skip(name) or not mx.issubdtype(value.dtype, mx.floating):
            out[name] = value
            continue
        delta = (rng.standard_normal(value.shape) * size).astype(np.float32)
        if "switch_mlp" in name or "mlp.experts" in name:
            delta[UNUSED] = 0
        out[name] = (value.astype(mx.float32) + mx.array(delta)).astype(value.dtype)
    return out


def pair(family: str, tmp_path: Path, tiny_model: Path, **changes: Any) -> tuple[Path, Path]:
    """(base, fine-tune) of a family."""
    config = config_of(family, **changes)
    weights = dict(tree_flatten(build_model(config).parameters()))
    base = write(tmp_path / "base", config, weights, tiny_model)
    return base, write(tmp_path / "tuned", config, tuned_from(weights), tiny_model)


def logits(model: Any) -> np.ndarray:
    return np.array(model(IDS).astype(mx.float32))


def check_applied(manager: ZenPersonalizationManager, base: Path, name: str) -> Profile:
    """The active model = base + decoded profile, within rounding; and the base again afterwards, bit for bit."""
    plain = logits(load_model(base))
    profile = manager.store.load(name)
    twin = load_model(base)
    flat = dict(tree_flatten(twin.parameters()))
    twin.load_weights(
        [(n, flat[n] + mx.array(decode_all(t.parts, t.shape).reshape(flat[n].shape))) for n, t in profile.tensors.items()],
        strict=False,
    )  # fmt: skip
    wanted = logits(twin)
    found = logits(manager.activate_profile(name))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(found - plain).max() > 1e-3
    assert np.array_equal(logits(manager.deactivate()), plain)
    return profile


EXPERTS = {
    "qwen3_moe": ("mlp.switch_mlp.", ["mlp.gate.weight"]),
    "mixtral": ("block_sparse_moe.switch_mlp.", ["block_sparse_moe.gate.weight"]),
    "qwen2_moe": ("mlp.switch_mlp.", ["mlp.gate.weight", "mlp.shared_expert_gate.weight"]),
    "deepseek_v3": ("mlp.switch_mlp.", ["mlp.gate.weight", "mlp.gate.e_score_correction_bias"]),
    "gpt_oss": ("mlp.experts.", ["mlp.router.weight", "mlp.router.bias"]),
    "granitemoe": ("block_sparse_moe.switch_mlp.", ["block_sparse_moe.router.layer.weight"]),
}


@pytest.mark.parametrize("family", EXPERTS)
def test_mixture_of_experts(family: str, tmp_path: Path, tiny_model: Path) -> None:
    """Scales an expert, nothing for the unused one, routers dense in f16, shared experts as targets; export and back."""
    stacked, routers = EXPERTS[family]
    base, tuned = pair(family, tmp_path, tiny_model) if family != "granitemoe" else granite(tmp_path, tiny_model)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    manager.compress_profile("one", str(tuned))
    manager.compress_profile("two", str(tuned), planes=2, scale="row")
    for name in ("one", "two"):
        profile = check_applied(manager, base, name)
        experts = {n: t for n, t in profile.tensors.items() if f"1.{stacked}" in n and n.endswith(".weight")}
        assert len(experts) == 3
        for tensor in experts.values():
            for part in tensor.parts:
                assert isinstance(part, SignPart)
                assert all(scale.shape[0] == 4 for scale in part.scales)
                assert not part.scales[0][UNUSED].any()
                assert all(part.scales[0][e].any() for e in range(4) if e != UNUSED)
            assert not decode_all(tensor.parts, tensor.shape)[UNUSED].any()
        for router in routers:
            (part,) = profile.tensors[f"model.layers.1.{router}"].parts
            assert isinstance(part, DensePart)
            assert part.values.dtype == np.float16
        shared = [n for n in profile.tensors if "shared_expert" in n and not n.endswith("_gate.weight")]
        assert all(isinstance(profile.tensors[n].parts[0], SignPart) for n in shared)
        assert bool(shared) == (family in ("qwen2_moe", "deepseek_v3"))

    manager.export_profile("two", tmp_path / "merged", format="hf")
    want = logits(manager.activate_profile("two"))
    np.testing.assert_allclose(logits(load_model(tmp_path / "merged")), want, atol=1e-4 * np.abs(want).max())
    profile = manager.store.load("two")
    merged, plain = (dict(tree_flatten(load_model(folder).parameters())) for folder in (tmp_path / "merged", base))
    assert merged.keys() == plain.keys()
    for name, value in plain.items():
        tensor = profile.tensors.get(name)
        delta = decode_all(tensor.parts, tensor.shape) if tensor else np.float32(0)
        np.testing.assert_array_equal(np.array(merged[name]), np.array(value) + delta, err_msg=name)
    manager.compress_profile("back", str(tmp_path / "merged"), planes=2, scale="row")
    assert manager.store.load("back").tensors.keys() == profile.tensors.keys()


def granite(tmp_path: Path, tiny_model: Path) -> tuple[Path, Path]:
    """Granite's checkpoints hold gate and up of all experts in one array."""
    base, tuned = pair("granitemoe", tmp_path, tiny_model)
    config = config_of("granitemoe")
    weights = dict(tree_flatten(build_model(config).parameters()))
    for folder, arrays in ((base, weights), (tuned, tuned_from(weights))):
        raw: Weights = {}
        for name, value in arrays.items():
            if name.endswith("switch_mlp.gate_proj.weight"):
                up = arrays[name.replace("gate_proj", "up_proj")]
                raw[name.replace("switch_mlp.gate_proj", "input_linear")] = mx.concatenate([value, up], axis=1)
            elif name.endswith("switch_mlp.down_proj.weight"):
                raw[name.replace("switch_mlp.down_proj", "output_linear")] = value
            elif "switch_mlp" not in name:
                raw[name] = value
        mx.save_safetensors(str(folder / "model.safetensors"), raw)
    return base, tuned


FUSED = {
    "phi3": ("model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"),
    "qwen": ("transformer.h.0.attn.c_attn.weight",),
    "gpt2": ("model.h.0.attn.c_attn.weight",),
    "gpt_neox": ("model.h.0.attention.query_key_value.weight", "model.h.0.attention.query_key_value.bias"),
    "glm4": ("model.layers.0.mlp.gate_up_proj.weight", "lm_head.weight"),
    "qwen2": ("model.layers.0.self_attn.q_proj.bias",),
    "mamba": ("backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.A_log"),
    "qwen3_next": ("model.layers.0.linear_attn.in_proj_qkvz.weight", "model.layers.0.linear_attn.A_log"),
    "apertus": ("model.layers.0.mlp.act_fn.alpha_p",),
}


@pytest.mark.parametrize("family", FUSED)
def test_fused_biased_and_other_layers(family: str, tmp_path: Path, tiny_model: Path) -> None:
    base, tuned = pair(family, tmp_path, tiny_model)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    manager.compress_profile("p", str(tuned))
    profile = check_applied(manager, base, "p")
    assert set(FUSED[family]) <= profile.tensors.keys()
    wanted = targets(load_model(base))
    for name, tensor in profile.tensors.items():
        kinds = (SignPart,) if name in wanted else (DensePart, RowsPart)
        assert isinstance(tensor.parts[0], kinds), name
    assert set(wanted) <= profile.tensors.keys()


DATA = [
    {"prompt": f"Define: {word}", "completion": f"{word} is what it is."} for word in ("love", "work", "time", "sleep")
]


@pytest.mark.parametrize("method", ["sign", "factor"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3_moe", {"num_experts": 64, "num_experts_per_tok": 1}),
        ("gpt_oss", {"num_local_experts": 64, "num_experts_per_tok": 1}),
        ("phi3", {}),
        ("gpt_neox", {}),
        ("qwen3_next", {}),
        ("mamba", {}),
    ],
)
def test_training(family: str, changes: dict[str, Any], method: str, tmp_path: Path, tiny_model: Path) -> None:
    """Two steps; with more experts than tokens some get no gradient: theirs is no delta, and no NaN."""
    base, _ = pair(family, tmp_path, tiny_model, **changes)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    data = DATA[:1] if changes else DATA
    bits = 4.0 if method == "factor" else None
    manager.create_profile("p", data, steps=2, valid="none", method=method, bits_per_weight=bits)
    profile = check_applied(manager, base, "p")
    assert profile.tensors.keys() <= targets(load_model(base)).keys()
    if changes:
        counts = []
        for name, tensor in profile.tensors.items():
            if len(tensor.shape) == 3:
                delta = decode_all(tensor.parts, tensor.shape)
                assert np.isfinite(delta).all(), name
                counts.append(int((delta != 0).any(axis=(1, 2)).sum()))
        assert counts
        assert min(counts) > 0
        assert max(counts) < 64


def test_the_command_line(tmp_path: Path, tiny_model: Path) -> None:
    """zen compress, train, generate and export on a mixture of experts."""
    base, tuned = pair("qwen3_moe", tmp_path, tiny_model)
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in DATA))

    def zen(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "zen_mlx", *arguments, "--json"]
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MLX_DISABLE_COMPILE": "1"})
        assert run.returncode == 0, run.stderr + run.stdout
        document: dict[str, Any] = json.loads(run.stdout)
        return document

    made = zen("compress", str(tuned), "--profile", "a", "-m", str(base), "--valid", str(data))
    assert made["metrics"]["profile_loss"] is not None
    assert made["metrics"]["reference_loss"] is not None
    zen("train", str(data), "--profile", "b", "-m", str(base), "--steps", "2", "--valid", "none")
    for profile in ("a", "b"):
        said = zen("generate", "Define: love", "-m", str(base), "-p", profile, "--max-tokens", "4")
        assert said["completion_tokens"] > 0
