"""Model folders as transformers 5 saves them: the same logits as transformers' own, in f32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.seeded_weights import seeded_weights
from zen_mlx.base.load import load_model
from zen_mlx.fsio import Json

GOLDEN = Path(__file__).parents[2] / "golden" / "families"
FAMILIES = sorted(file.stem for file in GOLDEN.glob("*.json"))
LIMIT = 1e-5
ON_CPU = mx.default_device().type == mx.DeviceType.cpu
MOVED = 1e-4  # what another rope does to the logits of these, at least
ABSENT = object()


def recorded(name: str) -> Json:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def folder_of(case: Json, folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {key: value for key, value in (case["config"] | changes).items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(seeded_weights(case["shapes"], case["seed"]), folder / "model.safetensors", {"format": "pt"})
    return folder


def logits(folder: Path, tokens: list[int]) -> np.ndarray:
    mx.disable_compile()  # a C++ compiler builds compiled functions on the CPU: seconds each
    try:
        return np.array(load_model(folder)(mx.array([tokens])).astype(mx.float32))[0]
    finally:
        mx.enable_compile()


def test_every_family_is_there() -> None:
    assert len(FAMILIES) >= 40


@pytest.mark.skipif(not ON_CPU, reason="a GPU sums in another order")
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    case = recorded(name)
    found, wanted = logits(folder_of(case, tmp_path), case["tokens"]), np.array(case["logits"])
    limit = LIMIT * np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= limit
    two = np.sort(wanted, axis=-1)[:, -2:]
    sure = two[:, 1] - two[:, 0] > limit
    assert sure.any()
    assert (found.argmax(-1) == wanted.argmax(-1))[sure].all()


@pytest.mark.parametrize("name", ["llama.yarn", "qwen3_moe", "phi", "gemma3_text", "deepseek_v3.yarn"])
def test_the_limit_notices_another_rope(name: str, tmp_path: Path) -> None:
    case = recorded(name)
    table = case["config"]["rope_parameters"]
    plain = table if "rope_theta" in table else table["full_attention"]
    plain["rope_theta"] = 2 * plain["rope_theta"]
    wanted = np.array(case["logits"])
    found = logits(folder_of(case, tmp_path), case["tokens"])
    assert np.abs(found - wanted).max() > MOVED * np.abs(wanted).max()


OLD_ROPES: dict[str, Json] = {
    "llama": {"rope_theta": 3000.0},
    "llama.linear": {"rope_theta": 3000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama.yarn": {
        "rope_theta": 3000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
    "qwen3": {"rope_theta": 3000.0, "rope_scaling": None},
    "phi": {"rope_theta": 3000.0, "partial_rotary_factor": 0.5},
    "stablelm": {"rope_theta": 3000.0, "partial_rotary_factor": 0.5},
    "gpt_neox": {"rotary_emb_base": 3000.0, "rotary_pct": 0.5},
    "gemma3_text": {
        "rope_theta": 3000.0,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "sliding_window_pattern": 6,
    },
}


@pytest.mark.parametrize("name", OLD_ROPES)
def test_the_spelling_of_transformers_4_is_the_same_function(name: str, tmp_path: Path) -> None:
    case = recorded(name)
    new = logits(folder_of(case, tmp_path / "new"), case["tokens"])
    old = folder_of(case, tmp_path / "old", rope_parameters=ABSENT, **OLD_ROPES[name])
    assert np.array_equal(logits(old, case["tokens"]), new)


def test_defaults_that_are_left_out_are_those_of_transformers(tmp_path: Path) -> None:
    """Everything that transformers' own class has as its default may be missing."""
    case = recorded("qwen2")
    written = logits(folder_of(case, tmp_path / "new"), case["tokens"])
    left = folder_of(case, tmp_path / "old", rms_norm_eps=ABSENT, hidden_act=ABSENT, use_sliding_window=ABSENT)
    assert np.array_equal(logits(left, case["tokens"]), written)
