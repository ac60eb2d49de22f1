"""The function behind the switch table runs both ways and leaves nothing behind; its times are not judged here."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.adapter.attach import target_count, targets
from zen_mlx.base.load import load_model
from zen_mlx.bench import switch
from zen_mlx.bench.switch import measure_switch
from zen_mlx.bench.synthetic import QWEN3_4B, quantized_qwen3, random_profile
from zen_mlx.format.read import read
from zen_mlx.format.write import write

SMALL = {
    **QWEN3_4B,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
    "head_dim": 32,
    "vocab_size": 320,
}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are loaded in this process: the command's own test starts new ones."""
    monkeypatch.setattr(switch, "in_new_process", lambda work, *args: work(*args))


def test_the_random_model_is_the_4b_model_in_small():
    model = quantized_qwen3(SMALL)
    logits = model(mx.array([[1, 2, 3]]))
    assert np.isfinite(np.array(logits)).all()
    assert len(targets(model)) == 2 * 7


def test_dimensions_of_the_4b_model():
    """3.63 billion target weights: 454 MB of signs."""
    per_layer = 2560 * 128 * (32 + 8 + 8) + 128 * 32 * 2560 + 3 * 2560 * 9728
    assert 36 * per_layer == 3_633_315_840
    assert QWEN3_4B["num_hidden_layers"] == 36


@pytest.mark.parametrize("scale", ["tensor", "row", "col"])
def test_random_profile_round_trips(tmp_path, scale):
    model = quantized_qwen3(SMALL)
    file = tmp_path / "random.bitdelta"
    write(random_profile(model, "random", 1, scale), file)
    profile = read(file)
    assert profile.target_count == target_count(model)
    assert set(profile.tensors) == set(targets(model))


@pytest.mark.usefixtures("_one_process")
def test_unmerged_on_a_4bit_model():
    result = measure_switch(lambda: quantized_qwen3(SMALL), "unmerged", repeats=3)
    assert result["targets"] == 14
    assert result["merged_bytes"] == 0
    assert 0 < result["switch_s"] < result["token_after_switch_s"]
    assert result["load_s"] > 0 < result["plain_read_s"]


@pytest.mark.usefixtures("_one_process")
def test_merged_on_a_dense_model(tiny_model):
    result = measure_switch(lambda: load_model(tiny_model), "merged", repeats=3)
    assert result["merged_bytes"] > 0 < result["token_s"]


def test_too_few_repeats():
    with pytest.raises(ValueError, match="repeats"):
        measure_switch(lambda: quantized_qwen3(SMALL), "unmerged", repeats=2)
