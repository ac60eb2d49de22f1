"""Every kind of foreign file, written by an independent hand, becomes a profile whose deltas are the file's."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import foreign_files as files
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import load_file, save_file

from zen_mlx import ZenPersonalizationManager, load_base
from zen_mlx.cli.main import main
from zen_mlx.codec.factor import FactorPart
from zen_mlx.codec.parts import DensePart, RowsPart, SignPart, decode_all
from zen_mlx.errors import InputError, ProfileExistsError, TargetError

Q, K, UP = (f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"))
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
RANDOM = np.random.default_rng(0)


@pytest.fixture
def manager(tiny_model: Path) -> ZenPersonalizationManager:
    return ZenPersonalizationManager(str(tiny_model))


def deltas(manager: ZenPersonalizationManager, name: str) -> dict[str, np.ndarray]:
    return {key: decode_all(t.parts, t.shape) for key, t in manager.store.load(name).tensors.items()}


def parameter(folder: Path, name: str) -> np.ndarray:
    model, _ = load_base(folder)
    return np.array(dict(tree_flatten(model.parameters()))[name].astype(mx.float32))


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([[1, 2, 3, 250]])).astype(mx.float32))


def test_public_bitdelta(manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path) -> None:
    signs = {name: RANDOM.random(shape) < 0.5 for name, shape in ((Q, (64, 64)), (UP, (128, 64)))}
    embedding = parameter(tiny_model, EMBEDDING)
    embedding[[3, 200]] += np.float32(0.5)
    norm = parameter(tiny_model, NORM) + np.float32(0.25)
    file = files.torch_save(
        tmp_path / "looks-like-nothing.bin",
        {
            f"{Q}.mask": ("<i4", files.mask_of(signs[Q])),
            f"{Q}.coeff": ("<f4", np.array(0.125, "<f4")),
            f"{UP}.mask": ("<i4", files.mask_of(signs[UP])),
            f"{UP}.coeff": ("<f4", np.array([-0.001], "<f4")),
            EMBEDDING: ("bf16", files.bf16(embedding)),
            NORM: ("<f4", norm),
        },
        parameters=(f"{Q}.coeff",),
    )
    assert manager.import_profile(file, "friend") == "friend"
    found = deltas(manager, "friend")
    assert np.array_equal(found[f"{Q}.weight"], np.where(signs[Q], 0.125, -0.125))
    assert np.array_equal(found[f"{UP}.weight"], np.where(signs[UP], -1, 1) * np.float32(0.001))
    assert np.array_equal(found[NORM], norm - parameter(tiny_model, NORM))
    whole = files.as_bf16(embedding)
    assert np.array_equal(found[EMBEDDING] + parameter(tiny_model, EMBEDDING), whole)
    tensors = manager.store.load("friend").tensors
    assert set(found) == {f"{Q}.weight", f"{UP}.weight", NORM, EMBEDDING}
    assert isinstance(tensors[EMBEDDING].parts[0], RowsPart)
    assert tensors[EMBEDDING].parts[0].rows.tolist() == [3, 200]
    header = manager.store.header("friend")
    assert header.base == {"model": "tiny-llama", "architecture": "llama", "verified": False}
    assert header.info["origin"] == "public BitDelta"
    before = logits(manager.model)
    after = logits(manager.activate_profile("friend"))
    assert not np.array_equal(before, after)
    manager.deactivate()
    assert np.array_equal(logits(manager.model), before)


def test_public_bitdelta_with_a_larger_vocabulary(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path
) -> None:
    tensors = {}
    for name in (EMBEDDING, "lm_head.weight"):
        old = parameter(tiny_model, name)
        tensors[name] = ("<f4", np.concatenate([old, np.ones((2, 64), "<f4")]))
    manager.import_profile(files.torch_save(tmp_path / "x", tensors | {
        f"{Q}.mask": ("<i4", files.mask_of(np.ones((64, 64), bool))), f"{Q}.coeff": ("<f4", np.array(0.0, "<f4")),
    }), "more")  # fmt: skip
    assert {t.shape for t in manager.store.load("more").tensors.values()} == {(260, 64)}
    model = manager.activate_profile("more")
    assert model(mx.array([[259]])).shape == (1, 1, 260)


def test_per_axis(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    signs = {name: RANDOM.random(shape) < 0.5 for name, shape in ((Q, (64, 64)), (UP, (128, 64)))}
    by_input = files.as_bf16(RANDOM.standard_normal(64).astype("<f4"))
    by_output = files.as_bf16(RANDOM.standard_normal(128).astype("<f4"))
    file = files.torch_save(
        tmp_path / "x",
        {
            f"{Q}.mask_row": ("<i4", files.mask_of(signs[Q])),
            f"{Q}.coeff_row": ("bf16", files.bf16(by_input)),
            f"{Q}.coeff": ("<f4", np.array(9.0, "<f4")),
            f"{UP}.mask_col": ("<i4", files.mask_of(signs[UP])),
            f"{UP}.coeff_col": ("bf16", files.bf16(by_output)),
        },
    )
    manager.import_profile(file, "axes")
    found = deltas(manager, "axes")
    assert np.array_equal(found[f"{Q}.weight"], np.where(signs[Q], 1, -1) * by_input)
    assert np.array_equal(found[f"{UP}.weight"], np.where(signs[UP], 1, -1) * by_output[:, None])
    assert manager.store.header("axes").info["origin"] == "per-axis deltas"


def test_reference_code(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    delta = {
        name: RANDOM.standard_normal(shape) for name, shape in ((Q, (64, 64)), (UP, (128, 64)), ("model.norm", 64))
    }
    rows = RANDOM.random(128).astype("<f4").tolist()
    file = tmp_path / "x.bitdelta"
    file.write_bytes(
        files.reference(
            {
                Q: files.reference_blob(delta[Q], 0.5),
                UP: files.reference_blob(delta[UP], rows),
                "model.norm": files.reference_blob(delta["model.norm"], 0.25),
            }
        )
    )
    assert manager.import_profile(file) == "friend"
    found = deltas(manager, "friend")
    signs = {name: np.where(array > 0, 1, -1) for name, array in delta.items()}
    assert np.array_equal(found[f"{Q}.weight"], signs[Q] * np.float32(0.5))
    assert np.array_equal(found[f"{UP}.weight"], signs[UP] * np.array(rows, "<f4")[:, None])
    assert np.array_equal(found[NORM], signs["model.norm"] * np.float32(0.25))


def test_rust(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    delta = RANDOM.standard_normal((128, 64))
    vector = RANDOM.standard_normal(64)
    delta[0, :3] = 0
    file = tmp_path / "rusty"
    file.write_bytes(
        files.rust(
            files.rust_tensor(f"{UP}.weight", delta, 0.75),
            files.rust_tensor(NORM, vector, 0.25),
            files.rust_tensor("nowhere.weight", delta, 0.0),
        )
    )
    assert manager.import_profile(file) == "rusty"
    found = deltas(manager, "rusty")
    assert np.array_equal(found[f"{UP}.weight"], np.where(delta >= 0, 1, -1) * np.float32(0.75))
    assert np.array_equal(found[NORM], np.where(vector >= 0, 1, -1) * np.float32(0.25))
    assert len(found) == 2


def lora(rank: int, n: int, k: int, dtype: str = "<f4") -> tuple[np.ndarray, np.ndarray]:
    """(B [n, r], A [r, k])"""
    return (RANDOM.standard_normal((n, rank)) * 0.05).astype(dtype), (RANDOM.standard_normal((rank, k)) * 0.3).astype(
        dtype
    )


def mlx_tensors(
    modules: dict[str, tuple[int, int]], rank: int, dtype: str = "<f4"
) -> dict[str, tuple[str, np.ndarray]]:
    out = {}
    for module, (n, k) in modules.items():
        b, a = lora(rank, n, k, dtype)
        name = {"<f4": "F32", "<f2": "F16"}[dtype]
        out |= {f"{module}.lora_a": (name, a.T), f"{module}.lora_b": (name, b.T)}
    return out


MODULES = {Q: (64, 64), K: (32, 64), UP: (128, 64), "model.layers.1.mlp.down_proj": (64, 128)}


@pytest.mark.parametrize(("dtype", "bits", "scale"), [("<f4", 32, 20.0), ("<f2", 16, 20.0), ("<f2", 16, 1 / 3)])
def test_a_lora_of_mlx_lm_gives_its_logits(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path, dtype: str, bits: int, scale: float
) -> None:
    keys = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"]
    config = files.mlx_config(4, scale)
    config["lora_parameters"]["keys"] = keys  # type: ignore[index]
    folder = files.adapter(tmp_path / "lora", "adapters.safetensors", mlx_tensors(MODULES, 4, dtype), config)
    peer = load_adapters(load_base(tiny_model)[0], str(folder))
    wanted = logits(peer.eval() or peer)
    manager.import_profile(folder, "lora")
    tensors = manager.store.load("lora").tensors
    assert set(tensors) == {f"{module}.weight" for module in MODULES}
    for tensor in tensors.values():
        assert isinstance(tensor.parts[0], FactorPart)
        assert [group.bits for group in tensor.parts[0].groups] == [bits]
    from zen_mlx.adapter.attach import Resident, attach, detach

    base = logits(manager.model)
    assert np.abs(wanted - base).max() > 0.01 * np.abs(base).max()
    for mode in ("unmerged", "merged"):
        attach(manager.model, Resident.from_profile(manager.store.load("lora")), mode)
        # |B| |A| |x| is about ten times the size of the products it bounds, in eight modules one after the other.
        np.testing.assert_allclose(logits(manager.model), wanted, atol=3e-5 * np.abs(wanted).max(), rtol=0)
    detach(manager.model)
    # The same adapter as a file, its configuration beside it.
    assert manager.import_profile(folder / "adapters.safetensors", "again") == "again"


def test_a_rank_above_the_matrix_is_dense_and_a_negative_scale_is_kept(
    manager: ZenPersonalizationManager, tmp_path: Path
) -> None:
    tensors = mlx_tensors({K: (32, 64)}, 40)
    folder = files.adapter(tmp_path / "x", "adapters.safetensors", tensors, files.mlx_config(40, -0.5))
    manager.import_profile(folder, "wide")
    tensor = manager.store.load("wide").tensors[f"{K}.weight"]
    assert isinstance(tensor.parts[0], DensePart)
    product = -0.5 * tensors[f"{K}.lora_b"][1].T.astype(float) @ tensors[f"{K}.lora_a"][1].T
    np.testing.assert_allclose(tensor.parts[0].values, product, rtol=1e-6)
    tensors = mlx_tensors({K: (32, 64)}, 4)
    folder = files.adapter(tmp_path / "y", "adapters.safetensors", tensors, files.mlx_config(4, -0.5))
    manager.import_profile(folder, "negative")
    product = -0.5 * tensors[f"{K}.lora_b"][1].T.astype(float) @ tensors[f"{K}.lora_a"][1].T
    np.testing.assert_allclose(deltas(manager, "negative")[f"{K}.weight"], product, rtol=1e-4, atol=1e-7)


def test_an_embedding_of_mlx_lm(manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path) -> None:
    a, b = RANDOM.standard_normal((258, 2)).astype("<f4"), RANDOM.standard_normal((2, 64)).astype("<f4")
    name = EMBEDDING.removesuffix(".weight")
    tensors = {f"{name}.lora_a": ("F32", a), f"{name}.lora_b": ("F32", b)}
    config = files.mlx_config(2, 1.0)
    config["lora_parameters"]["keys"] = [name]  # type: ignore[index]
    folder = files.adapter(tmp_path / "x", "adapters.safetensors", tensors, config)
    manager.import_profile(folder, "tokens")
    np.testing.assert_allclose(deltas(manager, "tokens")[EMBEDDING], a @ b, rtol=1e-5, atol=1e-6)
    peer = load_adapters(load_base(tiny_model)[0], str(folder))
    wanted = logits(peer)
    np.testing.assert_allclose(logits(manager.activate_profile("tokens")), wanted, atol=3e-6 * np.abs(wanted).max())


def peft_tensors(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], dtype: str = "F32"
) -> dict[str, tuple[str, np.ndarray]]:
    out = {}
    for module, (b, a) in pairs.items():
        at = f"base_model.model.{module}"
        out |= {f"{at}.lora_A.weight": (dtype, a), f"{at}.lora_B.weight": (dtype, b)}
    return out


@pytest.mark.parametrize("rslora", [False, True])
def test_peft(manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path, rslora: bool) -> None:
    pairs = {Q: lora(4, 64, 64), K: lora(2, 32, 64), UP: lora(8, 128, 64)}
    ranks = {"k_proj": 2, r"layers\.0\.mlp\.up_proj": 8}
    alphas = {".*q_proj": 3, "model.layers.0.mlp.up_proj": 5, "up_proj": 7}
    config = files.peft_config(4, 8, use_rslora=rslora, rank_pattern=ranks, alpha_pattern=alphas, bias="lora_only")
    head = RANDOM.standard_normal((258, 64)).astype("<f4")
    tensors = peft_tensors(pairs) | {"base_model.model.lm_head.modules_to_save.weight": ("F32", head)}
    folder = files.adapter(tmp_path / "some-lora", "adapter_model.safetensors", tensors, config)
    assert manager.import_profile(folder) == "some-lora"
    found = deltas(manager, "some-lora")
    for name, rank, alpha in ((Q, 4, 3), (K, 2, 8), (UP, 8, 5)):
        scale = alpha / (math.sqrt(rank) if rslora else rank)
        b, a = pairs[name]
        np.testing.assert_allclose(found[f"{name}.weight"], scale * (b.astype(float) @ a), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["lm_head.weight"] + parameter(tiny_model, "lm_head.weight"), head, atol=1e-6)


def test_peft_in_a_torch_archive_and_an_embedding(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    b, a = lora(4, 64, 64)
    at, inside = f"base_model.model.{Q}", "base_model.model.model.embed_tokens"
    ea, eb = RANDOM.standard_normal((4, 258)).astype("<f4"), RANDOM.standard_normal((64, 4)).astype("<f4")
    folder = tmp_path / "old"
    folder.mkdir()
    files.torch_save(folder / "adapter_model.bin", {
        f"{at}.lora_A.weight": ("<f4", a), f"{at}.lora_B.weight": ("<f4", b),
        f"{inside}.lora_embedding_A": ("<f4", ea), f"{inside}.lora_embedding_B": ("<f4", eb),
    })  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(files.peft_config(4, 4)))
    manager.import_profile(folder, "old")
    found = deltas(manager, "old")
    np.testing.assert_allclose(found[f"{Q}.weight"], b @ a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[EMBEDDING], (eb @ ea).T, rtol=1e-4, atol=1e-5)


def test_a_tied_embedding_of_peft_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    tied = tmp_path / "tied"
    shutil.copytree(tiny_model, tied)
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tied / "config.json").write_text(json.dumps(config))
    weights = dict(mx.load(str(tied / "model.safetensors")))
    del weights["lm_head.weight"]
    mx.eval(weights)
    mx.save_safetensors(str(tied / "model.safetensors"), weights)
    at = "base_model.model.model.embed_tokens"
    tensors = {
        f"{at}.lora_embedding_A": ("F32", np.ones((1, 258), "<f4")),
        f"{at}.lora_embedding_B": ("F32", np.ones((64, 1), "<f4")),
    }
    folder = files.adapter(tmp_path / "x", "adapter_model.safetensors", tensors, files.peft_config(1, 1))
    with pytest.raises(TargetError, match="does not change the embedding and the head alike"):
        ZenPersonalizationManager(str(tied)).import_profile(folder)


def test_what_the_base_lacks_is_refused_and_nothing_is_saved(
    manager: ZenPersonalizationManager, tmp_path: Path
) -> None:
    for index, (module, shape, word) in enumerate(
        [
            ("model.layers.7.mlp.up_proj", (128, 64), "no such parameter"),
            (UP, (128, 32), "wrong shape"),
            ("model.norm", (64, 64), "wrong shape"),
        ]
    ):
        folder = files.adapter(
            tmp_path / str(index), "adapters.safetensors", mlx_tensors({module: shape}, 4), files.mlx_config()
        )
        with pytest.raises(TargetError, match=word) as caught:
            manager.import_profile(folder, "x")
        assert caught.value.path.endswith("adapters.safetensors")
    zero = {f"{Q}.lora_a": ("F32", np.ones((64, 4), "<f4")), f"{Q}.lora_b": ("F32", np.zeros((4, 64), "<f4"))}
    with pytest.raises(InputError, match="changes nothing"):
        manager.import_profile(files.adapter(tmp_path / "z", "adapters.safetensors", zero, files.mlx_config()), "x")
    assert manager.profiles() == []


def test_from_the_command_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files.adapter(tmp_path / "mine", "adapters.safetensors", mlx_tensors(MODULES, 4), files.mlx_config())
    assert main(["profile", "import", str(folder), "-m", str(tiny_model), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["profile"] == "mine"
    assert (result["verified"], result["origin"]) == (False, "mlx-lm adapter")
    assert main(["profile", "import", str(folder), "-m", str(tiny_model), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == ProfileExistsError.__name__
    assert main(["profile", "import", str(folder), "-m", str(tiny_model), "--replace"]) == 0
    assert "shapes are all" in capsys.readouterr().err
    assert main(["profile", "list"]) == 0
    assert "unverified" in capsys.readouterr().out
    assert main(["profile", "show", "mine"]) == 0
    assert "not recorded" in capsys.readouterr().out
    assert main(["profile", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verified"] is False


def test_compress_takes_an_adapter(manager: ZenPersonalizationManager, tmp_path: Path) -> None:
    tensors = mlx_tensors(MODULES, 4)
    folder = files.adapter(tmp_path / "lora", "adapters.safetensors", tensors, files.mlx_config(4, 2.0))
    report = manager.compress_profile("small", str(folder), scale="row", valid=["a row of text", "and another"])
    assert {layer.name for layer in report.layers} == {f"{module}.weight" for module in MODULES}
    assert report.metrics["reference_loss"] != report.metrics["base_loss"]
    assert manager.store.header("small").base["verified"] is True
    found = manager.store.load("small").tensors[f"{Q}.weight"]
    assert isinstance(found.parts[0], SignPart)
    delta = 2.0 * tensors[f"{Q}.lora_b"][1].T @ tensors[f"{Q}.lora_a"][1].T
    assert np.array_equal(np.sign(decode_all(found.parts, found.shape)), np.sign(delta))


def test_compress_takes_a_larger_vocabulary_by_rows(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_model, tuned)
    model, _ = load_base(tiny_model)
    weights = {name: np.array(array.astype(mx.float32)) for name, array in tree_flatten(model.parameters())}
    for name in (EMBEDDING, "lm_head.weight"):
        weights[name] = np.concatenate([weights[name], np.full((2, 64), 0.5, "<f4")])
        weights[name][7] += np.float32(0.25)
    save_file(weights, tuned / "model.safetensors")
    config = json.loads((tuned / "config.json").read_text()) | {"vocab_size": 260}
    (tuned / "config.json").write_text(json.dumps(config))
    manager.compress_profile("more", str(tuned))
    profile = manager.store.load("more")
    assert set(profile.tensors) == {EMBEDDING, "lm_head.weight"}
    assert profile.tensors[EMBEDDING].parts[0].rows.tolist() == [7, 258, 259]
    assert len(profile.base["profile_tokenizer"]) == 64
    wanted = logits(load_base(tuned)[0])
    np.testing.assert_allclose(logits(manager.activate_profile("more")), wanted, atol=1e-3)
    assert load_file(tuned / "model.safetensors")[EMBEDDING].shape == (260, 64)


def test_full_parameters_of_mlx_lm_and_masks_in_safetensors(
    manager: ZenPersonalizationManager, tiny_model: Path, tmp_path: Path
) -> None:
    head = parameter(tiny_model, "lm_head.weight")
    head += np.float32(0.5)
    folder = files.adapter(
        tmp_path / "full", "adapters.safetensors", {"lm_head.weight": ("F32", head)}, {"fine_tune_type": "full"}
    )
    manager.import_profile(folder, "full")
    assert np.array_equal(deltas(manager, "full")["lm_head.weight"], head - parameter(tiny_model, "lm_head.weight"))
    signs = RANDOM.random((64, 64)) < 0.5
    tensors = {f"{Q}.mask": ("I32", files.mask_of(signs)), f"{Q}.coeff": ("F32", np.array(0.5, "<f4"))}
    (tmp_path / "x").write_bytes(files.safetensors(tensors))
    manager.import_profile(tmp_path / "x", "masks")
    assert np.array_equal(deltas(manager, "masks")[f"{Q}.weight"], np.where(signs, 0.5, -0.5))


def test_a_lora_on_a_quantized_base(tiny_model: Path, tmp_path: Path) -> None:
    from zen_mlx.base.quantize import quantize

    packed = quantize(str(tiny_model), 4, 32)
    keys = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"]
    config = files.mlx_config(4, 5.0)
    config["lora_parameters"]["keys"] = keys  # type: ignore[index]
    folder = files.adapter(tmp_path / "lora", "adapters.safetensors", mlx_tensors(MODULES, 4), config)
    wanted = logits(load_adapters(load_base(packed)[0], str(folder)))
    manager = ZenPersonalizationManager(str(packed))
    manager.import_profile(folder, "lora")
    np.testing.assert_allclose(
        logits(manager.activate_profile("lora")), wanted, atol=3e-6 * np.abs(wanted).max(), rtol=0
    )


def test_a_lora_on_the_embedded_base(with_embedded_base: Path, tmp_path: Path) -> None:
    modules = {
        f"model.layers.{layer}.{name}": shape
        for layer in (0, 29)
        for name, shape in (("self_attn.v_proj", (192, 576)), ("mlp.down_proj", (576, 1536)))
    }
    config = files.mlx_config(8, 2.0, num_layers=30)
    config["lora_parameters"]["keys"] = ["self_attn.v_proj", "mlp.down_proj"]  # type: ignore[index]
    folder = files.adapter(tmp_path / "lora", "adapters.safetensors", mlx_tensors(modules, 8), config)
    manager = ZenPersonalizationManager("smollm2-135m")
    manager.import_profile(folder, "lora")
    before = logits(manager.model)
    found = logits(manager.activate_profile("lora"))
    wanted = logits(load_adapters(load_base("smollm2-135m")[0], str(folder)))
    # Thirty layers of f32 roundings, merged in one order and added in another; the adapter itself is far above them.
    rounding = 2e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, atol=rounding, rtol=0)
    assert np.abs(found - before).max() > 20 * rounding
    manager.deactivate()
    assert np.array_equal(logits(manager.model), before)
