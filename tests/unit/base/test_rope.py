"""A model whose rope is not what its configuration says is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.rope_utils import initialize_rope

from tests.unit.base.test_families import folder_of, recorded
from zen_mlx.base import build as building
from zen_mlx.base.load import load_model
from zen_mlx.base.rope import built, built_ropes, expected
from zen_mlx.errors import ModelFormatError

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512}
LONG = {
    "long_factor": [1.0 + i / 4 for i in range(8)],
    "short_factor": [1.0] * 8,
    "original_max_position_embeddings": 64,
}
TABLES = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.9},
    {"rope_type": "longrope", **LONG},
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["rope_type"])
def test_what_mlx_builds_is_recognized(table: dict[str, Any]) -> None:
    table = {**table, "rope_theta": 3000.0}
    module: Any = initialize_rope(16, 3000.0, False, table, 512)
    wanted = expected(table, CONFIG, module)
    assert wanted is not None
    assert wanted.is_close(built(module))
    other: Any = initialize_rope(16, 4000.0, False, table, 512)
    assert not wanted.is_close(built(other))


def test_angles_are_those_that_are_turned_by() -> None:
    """`built` against what the module does to a vector, not against its fields."""
    module: Any = initialize_rope(16, 3000.0, False, {**TABLES[3], "rope_theta": 3000.0}, 512)
    turned = np.array(module(mx.concatenate([mx.ones((1, 1, 2, 8)), mx.zeros((1, 1, 2, 8))], -1)))[0, 0, 1]
    rope = built(module)
    np.testing.assert_allclose(turned[:8], rope.factor * np.cos(rope.angles), rtol=1e-5)
    np.testing.assert_allclose(turned[8:], rope.factor * np.sin(rope.angles), rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"), [("base", 10000.0), ("scale", 0.5), ("dims", 4)], ids=["base", "scale", "partial factor"]
)
def test_a_model_that_was_built_otherwise_is_refused(
    field: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(recorded("llama"), tmp_path)

    def wrong(model: nn.Module, config: dict[str, Any]) -> None:
        for _, module in built_ropes(model):
            setattr(module, field, value)

    load_model(folder)
    monkeypatch.setattr(building.families, "set_rope", wrong)
    with pytest.raises(ModelFormatError, match="another rope than its configuration says") as caught:
        load_model(folder)
    assert caught.value.path == str(folder / "config.json")
    assert caught.value.field == "rope_parameters"
    assert "self_attn.rope" in str(caught.value)


def test_a_kind_that_a_family_ignores_is_refused(tmp_path: Path) -> None:
    """mlx-lm's StarCoder2 has the plain rope, whatever the configuration says."""
    case = recorded("starcoder2")
    case["config"]["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 3000.0}
    with pytest.raises(ModelFormatError, match="linear with base 3000"):
        load_model(folder_of(case, tmp_path))
