"""Adapters that PEFT wrote itself: the imported profile's logits are PEFT's, within 1e-5 of the largest."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from peft_bases import BASES, TOKENS, write_base
from safetensors.numpy import load_file, save_file

from zen_mlx.adapter.attach import attach
from zen_mlx.adapter.resident_set import Resident
from zen_mlx.base.load import load_model
from zen_mlx.cli.main import main
from zen_mlx.codec.parts import decode_all
from zen_mlx.errors import FormatError, TargetError
from zen_mlx.interop.import_profile import foreign_profile
from zen_mlx.interop.name_mapping import Parameter, map_name
from zen_mlx.interop.parse.foreign import Lora

CASES = Path(__file__).parents[2] / "golden" / "peft"
READ = sorted(folder.name for folder in CASES.iterdir() if folder.is_dir() and not folder.name.startswith("refused"))
REFUSED = {
    "refused-dora": "use_dora",
    "refused-tokens": "trainable_token_indices",
    "refused-lora-bias": "lora_bias",
    "refused-tied": "tied embedding",
    "refused-tied-saved": "tied embedding",
    "refused-tied-head": "tied embedding",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    place = tmp_path_factory.mktemp("bases")
    for kind in BASES:
        write_base(kind, place / kind, tokenizer_of=tiny_model)
    return place


def logits(folder: Path, adapter: Path | None) -> np.ndarray:
    model = load_model(folder)
    if adapter is not None:
        model = attach(model, Resident.from_profile(foreign_profile(adapter, str(folder)), consume=False))
    return np.array(model(mx.array([TOKENS]))[0])


def compare(name: str, folder: Path) -> None:
    wanted = np.array(json.loads((CASES / name / "case.json").read_text())["logits"], "<f4")
    largest = np.abs(wanted).max()
    found = logits(folder, CASES / name)
    error = np.abs(found - wanted).max() / largest
    logging.getLogger(__name__).info("%s on %s: %.1e of the largest logit", name, folder.name, error)
    assert error < 1e-5
    assert np.abs(logits(folder, None) - wanted).max() > 1e-3 * largest  # an adapter that does nothing would be noticed


@pytest.mark.parametrize("name", READ)
def test_logits_are_pefts(name: str, bases: Path) -> None:
    base = json.loads((CASES / name / "case.json").read_text())["base"]
    compare(name, bases / base)


def test_an_adapter_of_a_vision_language_class_on_the_text_model_alone(bases: Path) -> None:
    compare("vision", bases / "dense")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_lora_is_refused_by_name_and_with_a_way_out(name: str, bases: Path) -> None:
    base = json.loads((CASES / name / "case.json").read_text())["base"]
    with pytest.raises((FormatError, TargetError), match=REFUSED[name]) as caught:
        foreign_profile(CASES / name, str(bases / base))
    assert caught.value.hint


def test_two_patterns_for_one_module_are_told(bases: Path) -> None:
    note = foreign_profile(CASES / "patterns-overlap", str(bases / "dense")).info["import_note"]
    assert "'0.self_attn.q_proj' and 'q_proj' of alpha_pattern both match 'model.layers.0.self_attn.q_proj'" in note
    assert "import_note" not in foreign_profile(CASES / "patterns", str(bases / "dense")).info


def test_a_copy_that_did_change_is_added_to_its_pair(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(CASES / "head-and-embedding", tmp_path / "changed")
    arrays = load_file(folder / "adapter_model.safetensors")
    arrays["base_model.model.lm_head.base_layer.weight"][[2, 9]] += 0.5
    save_file(arrays, folder / "adapter_model.safetensors")
    before, after = (
        foreign_profile(each, str(bases / "dense")).tensors["lm_head.weight"]
        for each in (CASES / "head-and-embedding", folder)
    )
    change = decode_all(after.parts, after.shape) - decode_all(before.parts, before.shape)
    assert np.abs(change[[2, 9]] - 0.5).max() < 1e-6
    assert not np.delete(change, [2, 9], axis=0).any()


def test_halves_of_other_experts_are_not_guessed() -> None:
    """Of gpt-oss, gate and up are every other row each: https://github.com/ml-explore/mlx-lm, models/gpt_oss.py."""
    shape = (2, 4, 4)
    base = {
        f"layers.0.mlp.experts.{name}_proj.weight": Parameter(shape, False, False, False, False)
        for name in ("gate", "up")
    }
    pair = Lora(np.ones((2, 8, 1), "<f4"), np.ones((2, 1, 4), "<f4"), 1.0, "F32")
    with pytest.raises(TargetError, match="which rows"):
        list(map_name("layers.0.mlp.experts.gate_up_proj.weight", pair, base))


def test_the_command_says_which_patterns_are_in_doubt(bases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", "import", str(CASES / "patterns-overlap"), "-m", str(bases / "dense")]
    assert main([*command, "--json"]) == 0
    assert "both match" in json.loads(capsys.readouterr().out)["note"]
    assert main([*command, "--replace"]) == 0
    assert "both match" in " ".join(capsys.readouterr().err.split())
