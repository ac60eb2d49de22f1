"""What the public workflows run exists: scripts of this repository, modules, console scripts, extras and test marks."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


def commands(path: Path) -> list[list[str]]:
    """Every command line of a workflow, as words."""
    lines = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def fault(words: list[str], made: set[str]) -> str | None:
    """What is wrong with a command, None for a good one. made: virtual environments that steps before it made."""
    program, *rest = words
    folder = Path(program).parts[0]
    if folder in made:
        program = Path(program).name
    elif "/" in program:
        if not os.access(ROOT / program, os.X_OK):
            return f"no script {program}"
        asked = set(re.findall(r"--[a-z]+", (ROOT / program).read_text()))
        return next((f"{program} knows no {word}" for word in rest if word.startswith("-") and word not in asked), None)
    if program == "python":
        return python_fault(rest)
    if program not in PROJECT["project"]["scripts"]:
        return f"no command {program}"
    return next(
        (f"no file {word}" for word in rest if word.startswith("examples/") and not (ROOT / word).exists()), None
    )


def python_fault(words: list[str]) -> str | None:
    if words[0] == "-c":
        compile(words[1], "-c", "exec")
        return None
    if words[0] != "-m" or importlib.util.find_spec(words[1]) is None:
        return f"no module {words[1]}"
    for word in words[2:]:
        for extra in re.findall(r"(?<=\[)[\w,]+(?=\])", word):
            if missing := set(extra.split(",")) - set(PROJECT["project"]["optional-dependencies"]):
                return f"no extra {missing}"
        if word.startswith("tests/") and not (ROOT / word).exists():
            return f"no tests {word}"
    return None


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_of_a_workflow_exists(path: Path) -> None:
    made: set[str] = set()
    found = commands(path)
    assert found
    for words in found:
        assert fault(words, made) is None
        if words[:3] == ["python", "-m", "venv"]:
            made.add(words[3])


def test_the_tests_run_on_two_pythons_and_two_kinds_of_core() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    rows = jobs["linux"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows} == {"3.11", "3.13"}
    assert len({row["core"] for row in rows}) == 2
    script = (ROOT / "scripts" / "_environment.sh").read_text()
    assert "${PYTHON:-}" in script


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("scripts/absent", "no script"),
        ("scripts/test --some", "knows no"),
        ("python -m absent_module", "no module"),
        ("python -m pip install .[absent]", "no extra"),
        ("python -m pytest tests/absent", "no tests"),
        ("zenith --help", "no command"),
    ],
)
def test_what_does_not_exist_is_found(line: str, part: str) -> None:
    assert part in str(fault(shlex.split(line), set()))
