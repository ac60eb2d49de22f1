"""Heads and added words of a fine-tune: untied heads under any name, tied ones once, tokenizers that know more; raw names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.e2e.test_checkpoint_kinds import granite, logits, pair, plain, write  # noqa: F401
from tests.families import build_model, config_of
from zen_mlx.base.load import load_base, load_model
from zen_mlx.base.validate import tensor_names
from zen_mlx.codec.parts import RowsPart
from zen_mlx.errors import BaseMismatchError, TargetError
from zen_mlx.manager import ZenPersonalizationManager

HEADS = {
    "qwen3": ("model.embed_tokens.weight", "lm_head.weight"),
    "llama4_text": ("model.embed_tokens.weight", "output.weight"),
    "gpt_neox": ("model.embed_in.weight", "model.embed_out.weight"),
}


def grown(family: str, tmp_path: Path, tiny_model: Path, words: list[str]) -> tuple[Path, Path]:
    """(base, fine-tune with `words` more, its tokenizer knowing them)."""
    config = config_of(family)
    weights = dict(tree_flatten(build_model(config).parameters()))
    base = write(tmp_path / "base", config, weights, tiny_model)
    moved = dict(weights)
    for name in HEADS[family]:
        moved[name] = mx.concatenate([weights[name], 0.3 * mx.random.normal((len(words), 64))])
        moved[name][7] = moved[name][7] + 0.2
    config = config | {"vocab_size": 258 + len(words)}
    tuned = write(tmp_path / "tuned", config, moved, tiny_model)
    tokenizer = json.loads((tuned / "tokenizer.json").read_text())
    entry = dict(tokenizer["added_tokens"][0])
    for at, word in enumerate(words):
        tokenizer["added_tokens"].append(entry | {"id": 258 + at, "content": word})
    (tuned / "tokenizer.json").write_text(json.dumps(tokenizer))
    return base, tuned


@pytest.mark.parametrize("family", HEADS)
def test_added_words(family: str, tmp_path: Path, tiny_model: Path) -> None:
    """Rows for what changed; refused where their tokenizer is not at hand; the merged checkpoint with it is whole."""
    base, tuned = grown(family, tmp_path, tiny_model, ["<one>", "<two>"])
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    manager.compress_profile("p", str(tuned))
    profile = manager.store.load("p")
    assert set(profile.tensors) == set(HEADS[family])
    for name in HEADS[family]:
        (part,) = profile.tensors[name].parts
        assert isinstance(part, RowsPart)
        assert part.rows.tolist() == [7, 258, 259]
    with pytest.raises(BaseMismatchError, match="adds tokens") as caught:
        manager.activate_profile("p")
    assert "--format hf" in str(caught.value.hint)
    assert manager.active is None

    notes = manager.export_profile("p", tmp_path / "merged", format="hf")
    assert any("260 rows" in note for note in notes)
    shutil.copyfile(tuned / "tokenizer.json", tmp_path / "merged" / "tokenizer.json")
    model, tokenizer = load_base(tmp_path / "merged")
    wanted = logits(load_model(tuned))
    assert wanted.shape[-1] == 260
    np.testing.assert_allclose(logits(model), wanted, atol=1e-3 * np.abs(wanted).max())
    assert tokenizer.encode("<two>", add_special_tokens=False) == [259]


def test_a_tied_head_is_stored_once(tmp_path: Path, tiny_model: Path) -> None:
    base, tuned = pair("qwen3", tmp_path, tiny_model, tie_word_embeddings=True)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    manager.compress_profile("p", str(tuned))
    assert "model.embed_tokens.weight" in manager.store.load("p").tensors
    assert "lm_head.weight" not in manager.store.load("p").tensors
    wanted = logits(manager.activate_profile("p"))
    manager.export_profile("p", tmp_path / "merged", format="hf")
    np.testing.assert_allclose(logits(load_model(tmp_path / "merged")), wanted, atol=1e-4 * np.abs(wanted).max())


def test_an_untied_fine_tune_of_a_tied_base_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    base, _ = pair("qwen3", tmp_path, tiny_model, tie_word_embeddings=True)
    config = config_of("qwen3")
    loose = write(tmp_path / "loose", config, dict(tree_flatten(build_model(config).parameters())), tiny_model)
    with pytest.raises(BaseMismatchError, match="parameters differ") as caught:
        ZenPersonalizationManager(str(base), home=tmp_path / "home").compress_profile("p", str(loose))
    assert caught.value.field == "lm_head.weight"


def test_a_router_cannot_get_more_rows(tmp_path: Path, tiny_model: Path) -> None:
    """They would name experts that are not there."""
    base, _ = pair("qwen3_moe", tmp_path, tiny_model)
    config = config_of("qwen3_moe", num_experts=5)
    more = write(tmp_path / "more", config, dict(tree_flatten(build_model(config).parameters())), tiny_model)
    with pytest.raises(TargetError, match="shape differs"):
        ZenPersonalizationManager(str(base), home=tmp_path / "home").compress_profile("p", str(more))


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "granitemoe"])
def test_the_names_of_an_export(family: str, tmp_path: Path, tiny_model: Path) -> None:
    """Those of the base's files, experts one by one; where mlx-lm reads them otherwise, its own, said so."""
    base, tuned = pair(family, tmp_path, tiny_model) if family != "granitemoe" else granite(tmp_path, tiny_model)
    manager = ZenPersonalizationManager(str(base), home=tmp_path / "home")
    manager.compress_profile("p", str(tuned))
    notes = manager.export_profile("p", tmp_path / "merged", format="hf")
    found, raw = (set(tensor_names(folder / "model.safetensors")) for folder in (tmp_path / "merged", base))
    own = any("mlx-lm's layout" in note for note in notes)
    assert own == (family == "granitemoe")
    assert (found == raw) == (family != "granitemoe")
    wanted = logits(manager.activate_profile("p"))
    np.testing.assert_allclose(logits(load_model(tmp_path / "merged")), wanted, atol=1e-4 * np.abs(wanted).max())
