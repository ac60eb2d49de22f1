"""A head that is stored beside a tied embedding: the head where it differs, as in transformers 5."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from tests.seeded_weights import seeded_weights
from tests.unit.base.test_families import ABSENT, folder_of, recorded
from zen_mlx.base.build import build
from zen_mlx.base.fingerprint import weight_digest
from zen_mlx.base.load import load_model
from zen_mlx.base.save import save_like
from zen_mlx.base.tied_head import FLAG, is_tied
from zen_mlx.fsio import Json

IDS = mx.array([[1, 5, 60]])


def with_head(folder: Path, flag: object, head: str) -> Path:
    """A tiny llama with `head`: "own", "same" as the embedding, or "none"."""
    case = recorded("llama")
    folder_of(case, folder, **{FLAG: flag})
    weights = seeded_weights(case["shapes"], case["seed"])
    if head == "same":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    elif head == "none":
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("flag", "head", "tied"),
    [
        (True, "own", False),
        (True, "same", True),
        (True, "none", True),
        (False, "own", False),
        (False, "same", False),
        (ABSENT, "own", False),
        (ABSENT, "same", False),  # transformers' llama has a head of its own unless it says otherwise
        (ABSENT, "none", True),
    ],
)
def test_which_head_it_is(flag: object, head: str, tied: bool, tmp_path: Path) -> None:
    folder = with_head(tmp_path, flag, head)
    assert is_tied(json.loads((folder / "config.json").read_text()), folder) is tied
    names = dict(tree_flatten(build(folder).parameters()))
    assert ("lm_head.weight" in names) is not tied


def test_an_own_head_is_used_and_hashed(tmp_path: Path) -> None:
    own, plain = with_head(tmp_path / "own", True, "own"), with_head(tmp_path / "plain", False, "own")
    assert mx.array_equal(load_model(own)(IDS), load_model(plain)(IDS))
    assert weight_digest(own) == weight_digest(plain)
    assert weight_digest(with_head(tmp_path / "tied", True, "none")) != weight_digest(own)


def test_a_digest_from_when_the_head_was_dropped_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    from zen_mlx.base import fingerprint as fp

    folder = with_head(tmp_path / "own", True, "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    old = fp.Fingerprint("ab" * 32, fp.tokenizer_digest(folder))
    fp.remember(folder, old)
    wanted = weight_digest(folder)
    assert fp.fingerprint(folder).weights == wanted
    monkeypatch.setattr(fp, "weight_digest", lambda folder: "cd" * 32)
    assert fp.fingerprint(folder).weights == wanted, "hashed once"


@pytest.mark.parametrize(("flag", "head"), [(True, "own"), (ABSENT, "own"), (ABSENT, "none"), (True, "same")])
def test_a_folder_of_ours_holds_the_flag(flag: object, head: str, tmp_path: Path) -> None:
    source, target = with_head(tmp_path / "source", flag, head), tmp_path / "target"
    target.mkdir()
    save_like(source, target, tree_flatten(build(source).parameters()), {})
    config: Json = json.loads((target / "config.json").read_text())
    assert isinstance(config[FLAG], bool)
    np.testing.assert_array_equal(np.array(load_model(target)(IDS)), np.array(load_model(source)(IDS)))
