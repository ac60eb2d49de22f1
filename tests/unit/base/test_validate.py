"""A damaged model folder is a `ModelFormatError` before MLX maps anything, and names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zen_mlx.base import validate
from zen_mlx.base.load import load_base
from zen_mlx.errors import ModelFormatError


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refused(folder: Path, file: str, match: str) -> None:
    with pytest.raises(ModelFormatError, match=match) as caught:
        load_base(folder)
    assert caught.value.path == str(folder / file)


def test_sound_folder_loads(folder: Path) -> None:
    model, tokenizer = load_base(folder)
    assert len(model.layers) == 2
    assert tokenizer.eos_token_ids == {257}


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"model_type": 3}', "{}", '"x"', "[" * 100_000])
def test_bad_config(folder: Path, text: str | None) -> None:
    config = folder / "config.json"
    config.unlink() if text is None else config.write_text(text)
    refused(folder, "config.json", "missing|JSON|model type")


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "evil.py"}))
    refused(folder, "config.json", "never runs")
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    load_base(folder)  # mlx-lm has this architecture itself
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["evil.Odd", None]}})
    )
    with pytest.raises(ModelFormatError, match="tokenizer"):
        load_base(folder)
    assert not (tmp_path / "ran").exists()


def test_unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_thing"}))
    with pytest.raises(ModelFormatError, match="no_such_thing"):
        load_base(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFormatError, match="the folder has no weights"):
        load_base(folder)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1, -1000])
def test_truncated_weights(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    refused(folder, "model.safetensors", "damaged or incomplete")


def test_header_that_claims_too_much(folder: Path) -> None:
    header = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [2**30, 2**30, 16], "data_offsets": [0, 4]}})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 4)
    refused(folder, "model.safetensors", "damaged or incomplete")


def test_index_and_files_disagree(folder: Path) -> None:
    index = folder / validate.INDEX
    names = validate.tensor_names(folder / "model.safetensors")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    load_base(folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00002-of-00002.safetensors")}))
    refused(folder, validate.INDEX, "disagree")
    index.write_text(json.dumps({"weight_map": {"absent": "model.safetensors"}}))
    refused(folder, validate.INDEX, "in no file")
    index.write_text("{}")
    refused(folder, validate.INDEX, "no weight_map")


def test_tensor_in_two_files(folder: Path) -> None:
    save_file({"model.norm.weight": np.ones(64, np.float32)}, folder / "model-extra.safetensors")
    refused(folder, "model.safetensors", "occurs twice")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_are_not_the_models(folder: Path, change: str) -> None:
    import mlx.core as mx

    file = folder / "model.safetensors"
    weights = {name: np.array(value.astype(mx.float32)) for name, value in mx.load(str(file)).items()}
    if change == "missing":
        del weights["model.norm.weight"]
    elif change == "extra":
        weights["model.extra.weight"] = np.ones(3, np.float32)
    else:
        weights["model.norm.weight"] = np.ones(63, np.float32)
    save_file(weights, file)
    assert set(load_file(file)) == set(weights)
    with pytest.raises(ModelFormatError, match="cannot build"):
        load_base(folder)


def test_tokenizer_missing_or_damaged(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["a", "b"]]
    for text in ("{", "{}", json.dumps(tokenizer)):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(ModelFormatError, match="tokenizer"):
            load_base(folder)
