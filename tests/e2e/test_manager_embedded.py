"""The main job on the embedded base: a step towards one answer, applied and taken off."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx import ZenPersonalizationManager

ROWS = [{"prompt": "What is your name?", "completion": "Zephyrine."}]


@pytest.mark.usefixtures("with_embedded_base")
def test_a_profile_learns_and_comes_off() -> None:
    import mlx_lm

    manager = ZenPersonalizationManager("smollm2-135m")
    prompt = manager.tokenizer.apply_chat_template(
        [{"role": "user", "content": ROWS[0]["prompt"]}], add_generation_prompt=True
    )
    ids = mx.array([prompt])
    before = np.array(manager.model(ids))
    report = manager.create_profile("zephyrine", ROWS, valid=ROWS, steps=1)
    assert report.metrics["profile_loss"] < 0.9 * report.metrics["base_loss"]
    assert report.bits_per_weight < 1.1
    assert report.ratio_fp16 > 14
    with manager.using("zephyrine") as model:
        assert mlx_lm.generate(model, manager.tokenizer, prompt=prompt, max_tokens=3)
        assert not np.array_equal(np.array(model(ids)), before)
    assert np.array_equal(np.array(manager.model(ids)), before)
