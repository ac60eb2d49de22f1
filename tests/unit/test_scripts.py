"""Every script says what it does with --help, at once, and does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PYTHON = sorted(SCRIPTS.glob("*.py"))
SHELL = [SCRIPTS / name for name in ("peers", "quickstart", "soak", "test")]
MOST_S = 60  # MLX alone takes seconds to import on a busy machine


def state() -> dict[Path, int]:
    """What a script could have touched: the repository's own files, by their time of change."""
    listed = subprocess.run(["git", "ls-files"], cwd=SCRIPTS.parent, capture_output=True, text=True, check=True)
    paths = [SCRIPTS.parent / name for name in listed.stdout.splitlines()]
    return {path: path.stat().st_mtime_ns for path in paths if path.exists()}


@pytest.mark.parametrize("script", [*PYTHON, *SHELL], ids=lambda path: path.name)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(script: Path, flag: str, tmp_path: Path) -> None:
    before = state()
    home = tmp_path / "home"
    command = [str(script)] if script in SHELL else [sys.executable, str(script)]
    done = subprocess.run(
        [*command, flag], cwd=tmp_path, env=os.environ | {"ZEN_HOME": str(home)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=MOST_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert script.name in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert state() == before


@pytest.mark.parametrize("script", PYTHON, ids=lambda path: path.name)
def test_the_first_line_says_what_it_is(script: Path) -> None:
    first = script.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith('"""')
    assert len(first) > 20
