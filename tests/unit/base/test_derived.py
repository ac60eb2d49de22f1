"""A quantized copy counts as its base's only where that base, quantized again, gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from zen_mlx.base import derived
from zen_mlx.base.derived import DERIVED_FROM, UNPROVEN
from zen_mlx.base.fingerprint import fingerprint
from zen_mlx.base.loaded import base_info, check_base
from zen_mlx.base.quantize import quantize
from zen_mlx.errors import BaseMismatchError
from zen_mlx.paths import digest_cache_path


@pytest.fixture
def source(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "source"))


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    """A quantized copy of `source` that came from elsewhere: nothing is known about it here."""
    made = shutil.copytree(quantize(str(source), 4, 32), tmp_path / "copy")
    digest_cache_path().unlink()
    return Path(made)


def test_a_true_copy_takes_the_profiles_of_its_base(source: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = base_info(str(source)).header()
    info = base_info(str(copy))
    assert info.derived_from == header["weights"]
    assert not info.notes
    check_base(info, header, "mine")
    monkeypatch.setattr(derived, "_quantized_again", lambda *_: pytest.fail("proven once"))
    assert base_info(str(copy)).derived_from == header["weights"]


def test_without_its_base_it_is_a_base_of_its_own(source: Path, copy: Path) -> None:
    header = base_info(str(source)).header()
    digest_cache_path().unlink()
    shutil.rmtree(source)
    info = base_info(str(copy))
    assert info.derived_from is None
    assert info.notes == (UNPROVEN,)
    assert "derived_from" not in info.header()
    with pytest.raises(BaseMismatchError, match="profile 'mine' was made for source, not for these weights"):
        check_base(info, header, "mine")
    check_base(info, info.header(), "its own")


def test_a_base_that_comes_later_is_looked_at_then(source: Path, copy: Path) -> None:
    digest_cache_path().unlink(missing_ok=True)
    assert base_info(str(copy)).derived_from is None
    assert base_info(str(source)).weights == fingerprint(source).weights
    assert base_info(str(copy)).derived_from == fingerprint(source).weights


@pytest.mark.parametrize("what", ["weights", "claim"])
def test_a_false_claim(what: str, source: Path, copy: Path, tiny_model: Path) -> None:
    wanted = base_info(str(source)).weights
    if what == "weights":
        arrays = dict(mx.load(str(copy / "model.safetensors")))
        arrays["model.norm.weight"] = arrays["model.norm.weight"] * 2
        mx.eval(arrays)
        mx.save_safetensors(str(copy / "model.safetensors"), arrays)
    else:
        other = dict(mx.load(str(source / "model.safetensors")))
        other = {name: value * 2 for name, value in other.items()}
        mx.eval(other)
        mx.save_safetensors(str(source / "model.safetensors"), other)
        wanted = base_info(str(source)).weights
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, DERIVED_FROM: wanted}))
    info = base_info(str(copy))
    assert info.derived_from is None
    assert info.notes == (UNPROVEN,)
    entry = json.loads(digest_cache_path().read_text())[str(copy.resolve())]["copy_of"]
    assert (entry["claim"], entry["proven"]) == (wanted, False)


def test_a_copy_made_here_needs_no_second_quantization(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = quantize(str(source), 4, 32)
    monkeypatch.setattr(derived, "_quantized_again", lambda *_: pytest.fail("made here"))
    assert base_info(made.name).derived_from == fingerprint(source).weights


def test_mixed_bits_are_not_what_quantize_makes(source: Path, copy: Path) -> None:
    """A claim with settings that this program does not make is no proof, and no crash."""
    base_info(str(source))
    config = json.loads((copy / "config.json").read_text())
    config["quantization"] = {"bits": "four", "group_size": 32}
    assert derived._quantized_again(source, config["quantization"]) is None
