"""Bases of 2 to 8 bits: a full-precision fine-tune against what they decode to, training on them, derivatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.utils import quantize_model

from tests.e2e.test_checkpoint_kinds import DATA, logits, plain, tuned_from, write  # noqa: F401
from tests.families import build_model, config_of, save_model
from zen_mlx.adapter.targets import targets
from zen_mlx.base.load import load_model
from zen_mlx.base.quantize import quantize
from zen_mlx.codec.parts import DensePart, decode_all
from zen_mlx.encode.lazy_weights import lazy_reader
from zen_mlx.errors import BaseMismatchError, TargetError
from zen_mlx.manager import ZenPersonalizationManager

DENSE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 128}
MODES = {
    "4 bits": {"group_size": 64, "bits": 4},
    "8 bits": {"group_size": 32, "bits": 8},
    "3 bits": {"group_size": 128, "bits": 3},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "mxfp8": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    "nvfp4": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
}


def mixed(path: str, module: Any) -> bool | dict[str, Any]:
    """As mlx-lm's mixed recipes: some layers wider, some not at all."""
    if not hasattr(module, "to_quantized"):
        return False
    if "o_proj" in path:
        return False
    return {"group_size": 32, "bits": 6} if "down_proj" in path else {"group_size": 64, "bits": 4}


def packed(
    family: str, folder: Path, tiny_model: Path, settings: dict[str, Any], recipe: Any = None
) -> tuple[Path, Path]:
    """(packed base, fine-tune in f32 of what it was packed from)."""
    config = config_of(family, **{k: v for k, v in DENSE.items() if k in config_of(family)})
    model = build_model(config)
    weights = dict(tree_flatten(model.parameters()))
    tuned = write(folder / "tuned", config, tuned_from(weights), tiny_model)
    model, changed = quantize_model(model, config, quant_predicate=recipe, **settings)
    return save_model(model, changed, folder / "packed", tiny_model), tuned


def check_packed(manager: ZenPersonalizationManager, base: Path, name: str) -> None:
    """base + profile = the dequantized base with W + D in every layer, within rounding; the base again afterwards."""
    before = logits(load_model(base))
    profile = manager.store.load(name)
    names, read = lazy_reader(load_model(base))
    config = json.loads((base / "config.json").read_text())
    dense = build_model({key: value for key, value in config.items() if not key.startswith("quantization")})
    weights = []
    for each in names:
        value, tensor = read(each), profile.tensors.get(each)
        weights.append((each, mx.array(value + decode_all(tensor.parts, tensor.shape) if tensor else value)))
    dense.load_weights(weights)
    wanted, found = logits(dense), logits(manager.activate_profile(name))
    np.testing.assert_allclose(found, wanted, atol=3e-4 * np.abs(wanted).max())
    assert np.abs(found - before).max() > 1e-3
    assert np.array_equal(logits(manager.deactivate()), before)


@pytest.mark.parametrize("settings", MODES.values(), ids=MODES)
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_a_fine_tune_against_a_packed_base(
    family: str, settings: dict[str, Any], tmp_path: Path, tiny_model: Path
) -> None:
    base, tuned = packed(family, tmp_path, tiny_model, settings)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    notes: list[Any] = []
    manager.compress_profile("p", str(tuned), planes=2, on_event=notes.append)
    assert [event.text for event in notes if hasattr(event, "text") and "embed_tokens" in event.text]
    profile = manager.store.load("p")
    assert targets(load_model(base)).keys() <= profile.tensors.keys()
    assert not {"model.embed_tokens.weight", "lm_head.weight"} & profile.tensors.keys()
    if family == "qwen3_moe":
        assert isinstance(profile.tensors["model.layers.0.mlp.gate.weight"].parts[0], DensePart)
    assert profile.base["quantization"]["bits"] == settings["bits"]
    check_packed(manager, base, "p")


def test_a_global_scale_an_expert() -> None:
    """MLX multiplies such weights on a GPU only; here they are read."""
    layer = SwitchLinear(64, 32, 3, bias=False)
    values = layer.weight
    block = nn.Sequential(layer.to_quantized(16, 4, "nvfp4", global_scale=True))
    names, read = lazy_reader(block)
    assert names == ["layers.0.weight"]
    found = read(names[0])
    assert found.shape == (3, 32, 64)
    assert np.linalg.norm(found - np.array(values)) < 0.15 * np.linalg.norm(np.array(values))


def test_a_mixed_recipe(tmp_path: Path, tiny_model: Path) -> None:
    base, tuned = packed("qwen3", tmp_path, tiny_model, {"group_size": 64, "bits": 4}, mixed)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    manager.compress_profile("p", str(tuned))
    check_packed(manager, base, "p")


@pytest.mark.parametrize("method", ["sign", "factor"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "deepseek_v3"])
def test_training_on_four_bits(family: str, method: str, tmp_path: Path, tiny_model: Path) -> None:
    base, _ = packed(family, tmp_path, tiny_model, {"group_size": 32, "bits": 4})
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    bits = 4.0 if method == "factor" else None
    manager.create_profile("p", DATA, steps=2, valid="none", method=method, bits_per_weight=bits)
    check_packed(manager, base, "p")


def test_a_derivative_and_a_stranger(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of the full-precision base works on its own 4-bit copy, and on no other."""
    config = config_of("qwen3_moe", **DENSE)
    weights = dict(tree_flatten(build_model(config).parameters()))
    base = write(tmp_path / "base", config, weights, tiny_model)
    same = {"model.embed_tokens.weight"}
    tuned = write(tmp_path / "tuned", config, tuned_from(weights, skip=lambda name: name in same), tiny_model)
    stranger_weights = dict(tree_flatten(build_model(config, seed=9).parameters()))
    stranger = write(tmp_path / "stranger", config, stranger_weights, tiny_model)
    home = tmp_path / "home"
    on_full = ZenPersonalizationManager(str(base), home=home)
    on_full.compress_profile("p", str(tuned), planes=2)
    assert "lm_head.weight" in on_full.store.load("p").tensors
    copy, other = quantize(str(base), 4, 32), quantize(str(stranger), 4, 32)
    on_copy = ZenPersonalizationManager(str(copy), home=home)
    check_packed(on_copy, copy, "p")
    for refused in (other, stranger):
        with pytest.raises(BaseMismatchError):
            ZenPersonalizationManager(str(refused), home=home).activate_profile("p")

    moved = write(tmp_path / "moved", config, tuned_from(weights), tiny_model)
    on_full.compress_profile("q", str(moved))
    with pytest.raises(TargetError, match="cannot take a delta") as caught:
        on_copy.activate_profile("q")
    assert "MB more" in str(caught.value.hint)


def test_added_words_need_an_embedding_that_can_grow(tmp_path: Path, tiny_model: Path) -> None:
    base, _ = packed("qwen3", tmp_path, tiny_model, {"group_size": 32, "bits": 4})
    config = config_of("qwen3", **DENSE) | {"vocab_size": 260}
    tuned = write(tmp_path / "grown", config, dict(tree_flatten(build_model(config).parameters())), tiny_model)
    with pytest.raises(TargetError, match="takes no delta") as caught:
        ZenPersonalizationManager(str(base), home=tmp_path / "home").compress_profile("p", str(tuned))
    assert "MB more" in str(caught.value.hint)
