"""A profile as a merged checkpoint and as a LoRA of mlx-lm or PEFT, read back by mlx-lm and by its own importer."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import foreign_files as files
import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_moe
from mlx_lm.tuner.utils import load_adapters

from zen_mlx import ZenPersonalizationManager, load_base
from zen_mlx.adapter.attach import target_count, targets
from zen_mlx.base.quantize import quantize
from zen_mlx.cli.main import main
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.parts import DensePart, decode_all, encode_rows, encode_sign
from zen_mlx.errors import BaseMismatchError, ConfigError, InputError, TargetError
from zen_mlx.format.spec import DeltaTensor, Profile

RANDOM = np.random.default_rng(0)
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def manager(tiny_model: Path) -> ZenPersonalizationManager:
    return ZenPersonalizationManager(str(tiny_model))


def logits(model: Any, tokens: tuple[int, ...] = (1, 2, 3, 250)) -> np.ndarray:
    return np.array(model(mx.array([tokens])).astype(mx.float32))


def keep(manager: ZenPersonalizationManager, name: str, tensors: dict[str, DeltaTensor], **info: str) -> None:
    profile = Profile(
        info={"name": name, **info},
        base=manager.base.info.header(),
        metrics={},
        target_count=target_count(manager.model),
        model_count=1000,
        tensors=tensors,
    )
    manager.store.save(name, profile)


def deltas(manager: ZenPersonalizationManager, size: float = 0.05) -> dict[str, np.ndarray]:
    return {
        name: (RANDOM.standard_normal(shape) * size).astype("<f4") for name, shape in targets(manager.model).items()
    }


def signs(manager: ZenPersonalizationManager, size: float = 0.05) -> dict[str, DeltaTensor]:
    return {name: DeltaTensor(d.shape, tuple(encode_sign(d))) for name, d in deltas(manager, size).items()}


def factors(manager: ZenPersonalizationManager, groups: list[list[int]], size: float = 0.05) -> dict[str, DeltaTensor]:
    return {name: DeltaTensor(d.shape, (encode_svd(d, groups),)) for name, d in deltas(manager, size).items()}


def lora_folder(
    folder: Path, scale: float = 10.0, dtype: str = "F32"
) -> tuple[Path, dict[str, tuple[str, np.ndarray]]]:
    tensors = {}
    for layer in range(2):
        for name, n, k in (("self_attn.q_proj", 64, 64), ("mlp.down_proj", 64, 128)):
            for side, shape in (("a", (k, 4)), ("b", (4, n))):
                values = (RANDOM.standard_normal(shape) * 0.1).astype("<f4")
                values = {"F32": values, "F16": values.astype("<f2"), "BF16": files.bf16(values)}[dtype]
                tensors[f"model.layers.{layer}.{name}.lora_{side}"] = (dtype, values)
    config = files.mlx_config(4, scale)
    config["lora_parameters"]["keys"] = ["self_attn.q_proj", "mlp.down_proj"]  # type: ignore[index]
    return files.adapter(folder, "adapters.safetensors", tensors, config), tensors


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_mlx_lm_there_and_back_gives_the_same_tensors(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path, dtype: str
) -> None:
    folder, tensors = lora_folder(tmp_path / "lora", dtype=dtype)
    manager.import_profile(folder, "mine")
    out = tmp_path / "out"
    assert manager.export_profile("mine", out, format="mlx-lm") == []
    before, after = (mx.load(str(at / "adapters.safetensors")) for at in (folder, out))
    assert set(after) == set(before) == set(tensors)
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        assert mx.array_equal(after[name], array).item()
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["lora_parameters"]["rank"], config["lora_parameters"]["scale"]) == (4, 10.0)
    wanted = logits(load_adapters(load_base(tiny_model)[0], str(folder)))
    assert np.array_equal(logits(load_adapters(load_base(tiny_model)[0], str(out))), wanted)


def test_peft_there_and_back(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    folder, tensors = lora_folder(tmp_path / "lora", scale=0.3)
    manager.import_profile(folder, "mine")
    assert manager.export_profile("mine", tmp_path / "peft", format="peft") == []
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 4)
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["lora_alpha"] / config["r"] == pytest.approx(0.3, rel=1e-6)
    arrays = mx.load(str(tmp_path / "peft" / "adapter_model.safetensors"))
    at = "model.layers.0.self_attn.q_proj"
    assert np.array_equal(np.array(arrays[f"base_model.model.{at}.lora_A.weight"]), tensors[f"{at}.lora_a"][1].T)
    assert np.array_equal(np.array(arrays[f"base_model.model.{at}.lora_B.weight"]), tensors[f"{at}.lora_b"][1].T)
    manager.import_profile(tmp_path / "peft", "again")
    one, two = manager.store.load("mine"), manager.store.load("again")
    for name, tensor in one.tensors.items():
        found = decode_all(two.tensors[name].parts, tensor.shape)
        np.testing.assert_allclose(found, decode_all(tensor.parts, tensor.shape), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("form", ["mlx-lm", "peft"])
@pytest.mark.parametrize("groups", [[[4, 6]], [[16, 2], [8, 2], [2, 2], [1, 3]]], ids=str)
def test_factors_of_any_bits_are_exact(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path, groups: list[list[int]], form: str
) -> None:
    keep(manager, "f", factors(manager, groups))
    assert manager.export_profile("f", tmp_path / "out", format=form) == []
    manager.import_profile(tmp_path / "out", "back")
    wanted = logits(manager.activate_profile("f"))
    found = logits(manager.activate_profile("back"))
    np.testing.assert_allclose(found, wanted, atol=3e-6 * np.abs(wanted).max(), rtol=0)
    if form == "mlx-lm":
        peer = logits(load_adapters(load_base(tiny_model)[0], str(tmp_path / "out")))
        np.testing.assert_allclose(peer, wanted, atol=3e-6 * np.abs(wanted).max(), rtol=0)


def test_ranks_and_scales_that_differ(manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path) -> None:
    tensors = {}
    for index, (name, delta) in enumerate(deltas(manager).items()):
        part = encode_svd(delta, [[4, 2 + index % 3]], u=np.full(delta.shape[0], 0.5 + index % 2), dtype="f32")
        tensors[name] = DeltaTensor(delta.shape, (part,))
    keep(manager, "f", tensors)
    wanted = logits(manager.activate_profile("f"))
    for form in ("mlx-lm", "peft"):
        manager.export_profile("f", tmp_path / form, format=form)
        manager.import_profile(tmp_path / form, form)
        np.testing.assert_allclose(logits(manager.activate_profile(form)), wanted, atol=3e-6 * np.abs(wanted).max())
    peer = logits(load_adapters(load_base(tiny_model)[0], str(tmp_path / "mlx-lm")))
    np.testing.assert_allclose(peer, wanted, atol=3e-6 * np.abs(wanted).max())


def test_every_reader_of_a_peft_adapter_finds_the_same_scale(
    manager: ZenPersonalizationManager, tmp_path: Path
) -> None:
    """vLLM and SGLang scale by lora_alpha / r, llama.cpp by lora_alpha / the tensor's rank, PEFT by the patterns too."""
    tensors = {}
    for index, (name, delta) in enumerate(deltas(manager).items()):
        part = encode_svd(delta, [[16, 2 + index % 3]], dtype="f32")
        group = dataclasses.replace(part.groups[0], scales=np.full(part.rank, 0.3 + index % 2, "<f4"))
        tensors[name] = DeltaTensor(delta.shape, (dataclasses.replace(part, groups=(group,)),))
    keep(manager, "f", tensors)
    manager.export_profile("f", tmp_path / "peft", format="peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    arrays = {name: np.array(a) for name, a in mx.load(str(tmp_path / "peft" / "adapter_model.safetensors")).items()}
    for name, tensor in tensors.items():
        at = f"base_model.model.{name.removesuffix('.weight')}"
        up, down = arrays[f"{at}.lora_B.weight"], arrays[f"{at}.lora_A.weight"]
        wanted = decode_all(tensor.parts, tensor.shape)
        for rank in (config["r"], down.shape[0]):
            found = config["lora_alpha"] / rank * (up @ down)
            np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max(), rtol=0)


def test_signs_are_refused_with_the_cost_or_approximated(
    manager: ZenPersonalizationManager, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    tensors = signs(manager) | {"model.norm.weight": DeltaTensor((64,), (DensePart(np.ones(64, "<f2")),))}
    keep(manager, "s", tensors)
    with pytest.raises(ConfigError, match="only factors") as caught:
        manager.export_profile("s", tmp_path / "out", format="mlx-lm")
    assert "rank 64" in str(caught.value.hint)
    assert "MB times R" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()
    errors = []
    for rank in ("4", "64"):
        line = ["profile", "export", "s", str(tmp_path / rank), "--format", "peft", "--rank", rank, "--json"]
        assert main([*line, "-m", str(tiny_model)]) == 0
        result = json.loads(capsys.readouterr().out)
        errors.append(result["relative_error"])
        assert len(result["lost"]) == 2
        assert result["file_bytes"] > 0
    matrices = [decode_all(t.parts, t.shape) for name, t in tensors.items() if name != "model.norm.weight"]
    lost = energy = 64.0
    for delta in matrices:
        values = np.linalg.svd(delta, compute_uv=False)
        lost += float((values[4:] ** 2).sum())
        energy += float((values**2).sum())
    assert errors[0] == pytest.approx(math.sqrt(lost / energy), rel=1e-3)
    assert errors[1] == pytest.approx(math.sqrt(64 / energy), rel=1e-3)


def test_an_embedding_in_both_forms(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    delta = RANDOM.standard_normal((258, 64)).astype("<f4")
    keep(manager, "e", {EMBEDDING: DeltaTensor(delta.shape, (encode_svd(delta, [[16, 3]]),))})
    wanted = logits(manager.activate_profile("e"))
    for form in ("mlx-lm", "peft"):
        manager.export_profile("e", tmp_path / form, format=form)
        manager.import_profile(tmp_path / form, form)
        np.testing.assert_allclose(logits(manager.activate_profile(form)), wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_merged_checkpoint_gives_the_profile_s_logits(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path
) -> None:
    tensors = signs(manager) | {"model.norm.weight": DeltaTensor((64,), (DensePart(np.full(64, 0.25, "<f2")),))}
    keep(manager, "s", tensors)
    assert manager.export_profile("s", tmp_path / "merged", format="hf") == []
    assert {file.name for file in (tmp_path / "merged").iterdir()} == {
        "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    model, tokenizer = mlx_lm.load(str(tmp_path / "merged"))
    assert model.lm_head.weight.dtype == mx.bfloat16
    wanted = logits(manager.activate_profile("s"))
    np.testing.assert_allclose(logits(load_base(tmp_path / "merged")[0]), wanted, atol=0.03 * np.abs(wanted).max())
    assert tokenizer.encode("abc") == manager.tokenizer.encode("abc")


def test_a_small_delta_makes_the_checkpoint_f32(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    keep(manager, "s", signs(manager, 1e-5))
    notes = manager.export_profile("s", tmp_path / "merged", format="hf")
    assert "f32" in notes[0]
    model, _ = load_base(tmp_path / "merged")
    assert {str(array.dtype) for _, array in tree_flatten(mlx_lm.load(str(tmp_path / "merged"))[0].parameters())} == {
        "mlx.core.float32"
    }
    wanted = logits(manager.activate_profile("s"))
    np.testing.assert_allclose(logits(model), wanted, atol=1e-6 * np.abs(wanted).max())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"


def test_a_merged_checkpoint_with_more_tokens(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    delta = np.zeros((260, 64), "<f4")
    delta[[5, 259]] = 1
    tensors = {name: DeltaTensor(delta.shape, (encode_rows(delta),)) for name in (EMBEDDING, "lm_head.weight")}
    keep(manager, "more", tensors)
    notes = manager.export_profile("more", tmp_path / "merged", format="hf")
    assert "260 rows" in notes[0]
    wanted = logits(manager.activate_profile("more"), (1, 5, 259))
    found = logits(load_base(tmp_path / "merged")[0], (1, 5, 259))
    assert found.shape[-1] == 260
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


@pytest.fixture
def moe(tmp_path: Path, tiny_model: Path) -> Path:
    """A tiny Qwen3-MoE whose file names each expert, as the hub's do."""
    mx.random.seed(1)
    config = {
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6, "vocab_size": 258,
        "rope_theta": 1e4, "max_position_embeddings": 128, "tie_word_embeddings": False, "num_experts": 4,
        "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    }  # fmt: skip
    folder = tmp_path / "moe"
    folder.mkdir()
    model = qwen3_moe.Model(qwen3_moe.ModelArgs.from_dict(config))
    arrays = {}
    for name, array in tree_flatten(model.parameters()):
        if "switch_mlp" in name:
            for index in range(4):
                arrays[name.replace("switch_mlp", f"experts.{index}")] = array[index]
        else:
            arrays[name] = array
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    return folder


def test_experts_in_every_form(moe: Path, tmp_path: Path) -> None:
    manager = ZenPersonalizationManager(str(moe))
    keep(manager, "f", factors(manager, [[8, 4]]))
    wanted = logits(manager.activate_profile("f"))
    assert not np.allclose(logits(load_base(moe)[0]), wanted, atol=1e-3)
    for form in ("mlx-lm", "peft"):
        manager.export_profile("f", tmp_path / form, format=form)
        manager.import_profile(tmp_path / form, form)
        np.testing.assert_allclose(logits(manager.activate_profile(form)), wanted, atol=1e-5 * np.abs(wanted).max())
    peer = logits(load_adapters(load_base(moe)[0], str(tmp_path / "mlx-lm")))
    np.testing.assert_allclose(peer, wanted, atol=1e-5 * np.abs(wanted).max())
    names = set(mx.load(str(tmp_path / "peft" / "adapter_model.safetensors")))
    assert "base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_A.weight" in names
    manager.export_profile("f", tmp_path / "merged", format="hf")
    assert set(mx.load(str(tmp_path / "merged" / "model.safetensors"))) == set(mx.load(str(moe / "model.safetensors")))
    np.testing.assert_allclose(
        logits(mlx_lm.load(str(tmp_path / "merged"))[0]), wanted, atol=1e-5 * np.abs(wanted).max()
    )


def test_what_is_refused(manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path) -> None:
    keep(manager, "f", factors(manager, [[4, 2]]))
    keep(manager, "v", {"model.norm.weight": DeltaTensor((64,), (DensePart(np.ones(64, "<f2")),))})
    with pytest.raises(ConfigError, match="format"):
        manager.export_profile("f", tmp_path / "x", format="gguf")
    for rank in (0, -1):
        with pytest.raises(ConfigError, match="rank"):
            manager.export_profile("f", tmp_path / "x", format="peft", rank=rank)
    with pytest.raises(ConfigError, match="rank"):
        manager.export_profile("f", tmp_path / "x", format="hf", rank=3)
    with pytest.raises(ConfigError, match="nothing in this profile"):
        manager.export_profile("v", tmp_path / "x", format="peft", rank=3)
    assert not (tmp_path / "x").exists()
    private = tmp_path / "private"
    private.mkdir()
    (private / "letters").write_text("dear all")
    for replace in (False, True):
        with pytest.raises(InputError, match="already exists"):
            manager.export_profile("f", private, format="peft", replace=replace)
    assert (private / "letters").read_text() == "dear all"
    manager.export_profile("f", tmp_path / "out", format="peft")
    with pytest.raises(InputError, match="already exists"):
        manager.export_profile("f", tmp_path / "out", format="mlx-lm")
    manager.export_profile("f", tmp_path / "out", format="mlx-lm", replace=True)
    assert (tmp_path / "out" / "adapters.safetensors").is_file()
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    with pytest.raises(InputError, match="the base itself"):
        manager.export_profile("f", tiny_model, format="hf", replace=True)
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    arrays = mx.load(str(other / "model.safetensors"))
    mx.save_safetensors(str(other / "model.safetensors"), {name: array * 2 for name, array in arrays.items()})
    with pytest.raises(BaseMismatchError):
        ZenPersonalizationManager(str(other)).export_profile("f", tmp_path / "y", format="hf")
    packed = ZenPersonalizationManager(str(quantize(str(tiny_model), 4, 32)))
    with pytest.raises(TargetError, match="quantized"):
        packed.export_profile("f", tmp_path / "y", format="hf")
