"""ARCHITECTURE.md leads to the right files: its table of words, its layers, its tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
SMALL_WORDS = {"a", "an", "and", "by", "for", "from", "in", "of", "on", "the", "to", "with"}
PROMISED = {
    "straight-through estimator", "LoRA import", "resume", "sign packing", "KV cache", "memory estimate", "profile switch",
    "rate allocation", "hub push", "chat", "secrets scrub",
}  # fmt: skip


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table below `title`, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


TABLE = [(words, file.strip("`")) for words, file in rows("Looking for")]


@pytest.mark.parametrize(("words", "file"), TABLE, ids=[words for words, _ in TABLE])
def test_the_name_or_the_first_line_of_a_file_has_the_words_that_lead_to_it(words: str, file: str) -> None:
    first = (ROOT / file).read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith('"""')
    found = f"{Path(file).stem.replace('_', ' ')} {first}".lower()
    wanted = [word for word in re.findall(r"[\w-]+", words.lower()) if word not in SMALL_WORDS]
    assert wanted
    assert [word for word in wanted if not re.search(rf"(?<![\w-]){word}", found)] == []


def test_the_words_that_were_promised_are_in_the_table() -> None:
    assert {words for words, _ in TABLE} >= PROMISED
    assert len({words for words, _ in TABLE}) == len(TABLE)


def test_the_layers_are_those_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    wanted = [sorted(re.findall(r"zen_mlx\.(\w+)", layer)) for layer in contract["layers"]]
    assert [sorted(re.findall(r"`(\w+)`", cells[0])) for cells in rows("The layers")] == wanted


def test_a_word_is_explained_once() -> None:
    words = [cells[0] for cells in rows("The words")]
    assert len(set(words)) == len(words) > 40
    assert words == sorted(words, key=str.lower)


def test_the_tree_is_what_the_files_say() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "tree.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_tree_has_every_page_and_every_folder_of_tests() -> None:
    lines = section("The tree").splitlines()
    for page in [*(ROOT / "docs").iterdir(), *ROOT.glob("*.md")]:
        assert any(line.split()[:1] == [page.name] for line in lines), page
    for folder in (ROOT / "tests").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"  {folder.name}/" in {line[: len(folder.name) + 3] for line in lines}, folder
