"""One function has one digest, however its configuration spells it; another function has another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.base.test_families import ABSENT, FAMILIES, OLD_ROPES, folder_of, recorded
from zen_mlx.base.build import build
from zen_mlx.base.identity import function_digest, function_of, text_rules_digest
from zen_mlx.base.loaded import base_info, check_base
from zen_mlx.base.quantize import quantize
from zen_mlx.base.rope import built_ropes
from zen_mlx.errors import BaseMismatchError
from zen_mlx.fsio import Json


def digest(name: str, folder: Path, **changes: Any) -> str:
    return function_digest(folder_of(recorded(name), folder, **changes))


@pytest.mark.parametrize("name", OLD_ROPES)
def test_transformers_4_and_5(name: str, tmp_path: Path) -> None:
    new = digest(name, tmp_path / "new")
    assert digest(name, tmp_path / "old", rope_parameters=ABSENT, **OLD_ROPES[name]) == new


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "head_dim", 8),
        ("llama", "mlp_bias", False),
        ("llama", "attention_bias", False),
        ("qwen2", "rms_norm_eps", 1e-6),
        ("qwen3", "hidden_act", "silu"),
        ("gemma2", "final_logit_softcapping", 30.0),
        ("gpt2", "layer_norm_epsilon", 1e-5),
        ("mixtral", "num_key_value_heads", 2),
    ],
)
def test_a_default_may_be_left_out(name: str, key: str, value: Any, tmp_path: Path) -> None:
    """`value` is the family's default, or follows from the other fields."""
    written = digest(name, tmp_path / "written", **{key: value})
    if name != "mixtral":
        assert digest(name, tmp_path / "left", **{key: ABSENT}) == written
    assert digest(name, tmp_path / "noise", **{key: value, "use_cache": False, "initializer_range": 0.5}) == written


def test_a_whole_number_is_the_same_as_one_with_a_point(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 3000}
    assert digest("llama", tmp_path / "a", rope_parameters=rope) == digest("llama", tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rms_norm_eps": 1e-4}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 3001.0}}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 3000.0, "factor": 2.0}}),
        ("llama", {"num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 1}),
        ("llama", {"hidden_act": "gelu"}),
        ("phi", {"rope_parameters": {"rope_type": "default", "rope_theta": 3000.0, "partial_rotary_factor": 1.0}}),
        ("granite", {"residual_multiplier": 0.5}),
        ("gemma2", {"final_logit_softcapping": 20.0}),
        ("gemma2", {"query_pre_attn_scalar": 128}),
        ("mixtral", {"num_experts_per_tok": 1}),
        ("gemma3_text", {"sliding_window": 8}),
        ("cohere", {"logit_scale": 0.5}),
    ],
)
def test_a_changed_value_is_another_function(name: str, changes: Json, tmp_path: Path) -> None:
    assert digest(name, tmp_path / "a", **changes) != digest(name, tmp_path / "b")


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_canonical_json(name: str, tmp_path: Path) -> None:
    """Every family's function is made of plain values, and of its rope where it has one."""
    found = function_of(folder_of(recorded(name), tmp_path))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["rope"] is None) == (name == "gpt2")
    assert found["arguments"]["model_type"] == recorded(name)["config"]["model_type"]


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "base"))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_embedded_base_saved_again_is_the_same(embedded_base: Path, tmp_path: Path) -> None:
    """config.json as transformers 5 writes it: without `rope_theta`."""
    from transformers import AutoConfig

    again = tmp_path / "again"
    AutoConfig.from_pretrained(embedded_base).save_pretrained(again)
    assert "rope_theta" not in json.loads((again / "config.json").read_text())
    (again / "model.safetensors").symlink_to(embedded_base / "model.safetensors")
    assert function_digest(again) == function_digest(embedded_base)
    bases = [module.base for _, module in built_ropes(build(again))]
    assert bases == [100_000.0] * 30


def test_a_profile_of_another_function_is_refused(base: Path) -> None:
    header = base_info(str(base)).header()
    check_base(base_info(str(base)), header, "mine")
    change(base / "config.json", rms_norm_eps=0.5)
    with pytest.raises(BaseMismatchError, match="computes otherwise") as caught:
        check_base(base_info(str(base)), header, "mine")
    assert caught.value.field == "base.function"
    older = {key: value for key, value in header.items() if key not in ("function", "text_rules")}
    check_base(base_info(str(base)), older, "mine")


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "post_processor"])
def test_a_profile_of_other_rules_for_text_is_refused(part: str, base: Path) -> None:
    header, before = base_info(str(base)).header(), text_rules_digest(base)
    change(base / "tokenizer.json", **{part: None if part == "pre_tokenizer" else {"type": "Lowercase"}})
    assert text_rules_digest(base) != before
    assert base_info(str(base)).tokenizer == header["tokenizer"]
    with pytest.raises(BaseMismatchError, match="cuts text otherwise") as caught:
        check_base(base_info(str(base)), header, "mine")
    assert caught.value.field == "base.text_rules"


EMPTY = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def test_the_empty_template_of_transformers_5_is_no_rule(base: Path) -> None:
    """It writes one where there was no post-processor."""
    assert json.loads((base / "tokenizer.json").read_text())["post_processor"] is None
    before = text_rules_digest(base)
    change(base / "tokenizer.json", post_processor=EMPTY)
    assert text_rules_digest(base) == before
    token = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    full = {"<|im_start|>": {"id": "<|im_start|>", "ids": [256], "tokens": ["<|im_start|>"]}}
    change(
        base / "tokenizer.json", post_processor={**EMPTY, "single": [token, *EMPTY["single"]], "special_tokens": full}
    )
    assert text_rules_digest(base) != before


def test_a_quantized_copy_computes_as_its_source(base: Path) -> None:
    copy = base_info(quantize(str(base), 4, 32).name)
    assert copy.function == base_info(str(base)).function
    check_base(copy, base_info(str(base)).header(), "mine")
