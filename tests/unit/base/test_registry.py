"""name -> source: aliases, the user's own aliases, repositories, folders, and the error that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from zen_mlx.base import registry
from zen_mlx.errors import ConfigError, InputError, ModelNotFoundError
from zen_mlx.paths import base_dir, config_path


def write_config(text: str) -> None:
    config_path().parent.mkdir(parents=True, exist_ok=True)
    config_path().write_text(text)


@pytest.mark.parametrize(
    ("alias", "repos"),
    [
        ("zen-nano", ("zenlm/zen-nano-0.6b",)),
        ("zen-nano-4b", ("zenlm/zen-nano-4b-instruct", "zenlm/zen-eco-4b-instruct")),
        ("zen-next", ("zenlm/zen-next",)),
        ("zen-omni", ("zenlm/zen-omni-30b-instruct",)),
    ],
)
def test_built_in_aliases(alias: str, repos: tuple[str, ...]) -> None:
    source = registry.resolve(alias)
    assert (source.kind, source.repos, source.name) == ("hub", repos, alias)


def test_the_default_is_embedded() -> None:
    assert registry.DEFAULT_MODEL == "smollm2-135m"
    assert registry.resolve(registry.DEFAULT_MODEL).kind == "embedded"


def test_repository_id_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.resolve("mlx-community/Qwen3-4B-4bit").repos == ("mlx-community/Qwen3-4B-4bit",)
    source = registry.resolve(str(tmp_path))
    assert (source.kind, source.path) == ("folder", tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert registry.resolve("org/model").path == tmp_path / "org" / "model", "a folder that is there wins"
    assert registry.resolve("org/model").name == str(tmp_path / "org" / "model"), "the name works from anywhere"


def test_a_base_made_here_has_a_name() -> None:
    folder = base_dir("smollm2-135m-4bit")
    folder.mkdir(parents=True)
    with pytest.raises(ModelNotFoundError):
        registry.resolve("smollm2-135m-4bit")
    (folder / "config.json").write_text("{}")
    assert registry.resolve("smollm2-135m-4bit").path == folder
    (folder.parent / "smollm2-135m").mkdir()
    (folder.parent / ".smollm2-135m.lock").touch()
    assert [source.name for source in registry.made_here()] == ["smollm2-135m-4bit"]


def test_nothing_made_here_yet() -> None:
    assert registry.made_here() == []


def test_unknown_name_lists_aliases_and_suggests() -> None:
    with pytest.raises(ModelNotFoundError, match=r"did you mean 'zen-nano-4b'.*zen-omni.*found zen-nano-4") as caught:
        registry.resolve("zen-nano-4")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "name", ["", "/no/such/folder", "./nothing", "~/nothing-here", "a/b/c", "-x/y", "../x", "org/"]
)
def test_what_is_no_model(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        registry.resolve(name)


def test_users_aliases_add_and_override(tmp_path: Path) -> None:
    write_config(f'[models]\nwork = "acme/chat"\nzen-nano = ["acme/a", "acme/b"]\nmine = "{tmp_path}"\n')
    assert registry.resolve("work").repos == ("acme/chat",)
    assert registry.resolve("zen-nano").repos == ("acme/a", "acme/b")
    assert registry.resolve("mine").path == tmp_path
    assert list(registry.aliases())[:2] == ["smollm2-135m", "zen-nano"]


@pytest.mark.parametrize("value", ["3", "[]", '["a/b", 1]', '""', '"no-slash"', '["/a", "/b"]', "{x = 1}"])
def test_bad_users_alias(value: str) -> None:
    write_config(f"[models]\nwork = {value}\n")
    with pytest.raises(ConfigError, match=r"models\.work"):
        registry.resolve("zen-nano")


def test_models_is_a_table() -> None:
    write_config("models = 3\n")
    with pytest.raises(InputError, match="must be a table"):
        registry.aliases()
