"""The digests are the ones format.md defines, computed here a second time from the files themselves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from zen_mlx.base import fingerprint as fp
from zen_mlx.base.fingerprint import fingerprint
from zen_mlx.base.load import load_base
from zen_mlx.errors import ModelFormatError
from zen_mlx.paths import digest_cache_path


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def digest_of_file(path: Path) -> str:
    """The weight digest straight from a safetensors file's own bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    total = hashlib.sha256()
    for name in sorted(header, key=str.encode):
        entry = header[name]
        first, last = entry["data_offsets"]
        total.update(f"{name}\0{entry['dtype']}\0{','.join(map(str, entry['shape']))}\0".encode())
        total.update(hashlib.sha256(data[start + first : start + last]).digest())
    return total.hexdigest()


def test_weights_are_the_stored_ones_bf16_included(folder: Path) -> None:
    assert b'"BF16"' in (folder / "model.safetensors").read_bytes()[:4096]
    assert fingerprint(folder).weights == digest_of_file(folder / "model.safetensors")


def test_embedded_base_by_the_definition(embedded_base: Path) -> None:
    expected = "138da15f5f90b6b2af1c2398c8d663ab024ef714043b18646e9f9083aee692da"
    assert digest_of_file(embedded_base / "model.safetensors") == expected


def test_tokenizer_digest_by_the_definition(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    identity = {"model": tokenizer["model"], "added_tokens": tokenizer["added_tokens"], "chat_template": template}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert fingerprint(folder).tokenizer == hashlib.sha256(text.encode()).hexdigest()


def test_chat_template_comes_from_where_transformers_takes_it(folder: Path) -> None:
    def used() -> str | None:
        _, tokenizer = load_base(folder)
        template: str | None = tokenizer.chat_template
        return template

    assert fp.chat_template(folder) == used()
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert fp.chat_template(folder) == used() == "{{ messages[0]['content'] }}"
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert fp.chat_template(folder) is None


def test_untouched_by_shards_names_and_metadata(folder: Path) -> None:
    before = fingerprint(folder)
    weights = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    for number, part in enumerate((names[::2], names[1::2])):
        mx.save_safetensors(str(folder / f"model-{number}.safetensors"), {name: weights[name] for name in part})
    assert fingerprint(folder) == before


def test_one_bit_changes_the_weights_only(folder: Path) -> None:
    before = fingerprint(folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    after = fingerprint(folder)
    assert after.weights != before.weights
    assert after.tokenizer == before.tokenizer


def test_template_changes_the_tokenizer_only(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "chat_template.jinja").write_text("other")
    after = fingerprint(folder)
    assert (after.weights, after.tokenizer != before.tokenizer) == (before.weights, True)


def test_dtype_counts(folder: Path) -> None:
    before = fingerprint(folder)
    weights = {name: value.astype(mx.float32) for name, value in mx.load(str(folder / "model.safetensors")).items()}
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    assert fingerprint(folder).weights != before.weights


def test_cache_is_used_while_files_are_the_same(folder: Path) -> None:
    before = fingerprint(folder)
    cache = json.loads(digest_cache_path().read_text())
    cache[str(folder)]["weights"] = "ab" * 32
    digest_cache_path().write_text(json.dumps(cache))
    assert fingerprint(folder).weights == "ab" * 32, "taken from the cache"
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert fingerprint(folder) == before, "hashed again"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', "\0\xff"])
def test_damaged_cache_only_costs_time(folder: Path, text: str) -> None:
    before = fingerprint(folder)
    digest_cache_path().write_text(text)
    assert fingerprint(folder) == before
    assert str(folder) in json.loads(digest_cache_path().read_text())


def test_no_tokenizer_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFormatError, match="missing") as caught:
        fingerprint(folder)
    assert caught.value.path == str(folder / "tokenizer.json")
