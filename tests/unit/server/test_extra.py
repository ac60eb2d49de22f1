"""How to get the extra, by how zen_mlx was installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from zen_mlx.errors import InputError
from zen_mlx.server import extra

CLONE = json.dumps({"url": "file:///home/me/my%20zen", "dir_info": {"editable": True}})
FOLDER = json.dumps({"url": "file:///home/me/zen", "dir_info": {}})
GIT = json.dumps({"url": "https://host.example/zen.git", "vcs_info": {"vcs": "git", "commit_id": "0"}})


@pytest.mark.parametrize(
    ("marker", "origin", "command"),
    [
        ("uv-receipt.toml", "", "uv tool install --force 'zen-mlx[server]'"),
        ("pipx_metadata.json", "", "pipx install --force 'zen-mlx[server]'"),
        ("pipx_metadata.json", CLONE, "pipx install --force -e '/home/me/my zen[server]'"),
        (None, "", f"{sys.executable} -m pip install 'zen-mlx[server]'"),
        (None, CLONE, f"{sys.executable} -m pip install -e '/home/me/my zen[server]'"),
        (None, FOLDER, f"{sys.executable} -m pip install '/home/me/zen[server]'"),
        (None, GIT, f"{sys.executable} -m pip install 'zen-mlx[server] @ git+https://host.example/zen.git'"),
        (None, "{damaged", f"{sys.executable} -m pip install 'zen-mlx[server]'"),
    ],
)
def test_the_command_fits_the_installation(tmp_path: Path, marker: str | None, origin: str, command: str) -> None:
    if marker is not None:
        (tmp_path / marker).touch()
    assert extra.install_command(tmp_path, origin) == command


def test_an_environment_without_pip_gets_uvs_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/uv")
    assert extra.install_command(tmp_path, "") == f"uv pip install --python {sys.executable} 'zen-mlx[server]'"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    extra.require_extra()
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else whole(name))
    with pytest.raises(InputError, match="no uvicorn") as caught:
        extra.require_extra()
    assert "install" in str(caught.value.hint)
    assert "[server]" in str(caught.value.hint)
    assert caught.value.exit_code == 2
