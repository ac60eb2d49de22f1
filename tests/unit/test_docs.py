"""What the pages print exists: paths, links, dotted names, imports, and every `zen` command with its options."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("zen_mlx", "metal_kernels", "cuda_kernels", "tests", "scripts", "docs", "examples")
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "tests").rglob("README.md"),
    *(ROOT / name / "README.md" for name in ("examples", "metal_kernels", "cuda_kernels")),
]
on_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

_DOTTED = re.compile(r"(?<![\w./-])zen_mlx(?:\.\w+)+")
_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./{{}},-]*")
_FILE = re.compile(r"`([\w./-]+\.(?:py|md|metal|cu|cuh|svg|h))`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def is_placeholder(word: str) -> bool:
    """Whether a reader puts a word of their own there: `examples/NAME.train.jsonl`."""
    return re.search(r"(?<![A-Za-z])(?:NAME|FILE|FOLDER)(?![A-Za-z])", word) is not None


def spelled_out(path: str) -> list[str]:
    """`a.{b,c}` as `a.b` and `a.c`."""
    found = re.search(r"\{([^}]*)\}", path)
    if found is None:
        return [path]
    return [each for one in found[1].split(",") for each in spelled_out(path.replace(found[0], one, 1))]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    heads = re.findall(r"^#+ (.*)$", _FENCED.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def code_lines(page: Path) -> Iterator[str]:
    """The lines of code blocks but Python's and output, joined where a backslash ends one, and all inline code."""
    text = text_of(page)
    blocks = [body for language, body in _FENCED.findall(text) if language not in ("python", "text")]
    prose = _FENCED.sub("", text)
    blocks += re.findall(r"(?:^ {4,}.*\n)+", prose, re.MULTILINE)
    for block in blocks:
        yield from block.replace("\\\n", " ").splitlines()
    yield from _SPAN.findall(prose)


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `zen` wherever a line of code calls it, up to a pipe or a comment."""
    for line in code_lines(page):
        called = re.search(r"(?:^|[\s|])(?:zen|-m zen_mlx) (.*)", line.strip())
        if called:
            lexer = shlex.shlex(called[1], posix=True, punctuation_chars="|;&")
            lexer.whitespace_split = True
            words = []
            for word in lexer:
                if set(word) <= set("|;&"):
                    break
                words.append(word)
            yield words


@cache
def zen() -> Any:
    from zen_mlx.cli.main import app

    return typer.main.get_command(app)


def problem(words: list[str]) -> str | None:
    """What is wrong with a command line, None where it parses."""
    command = zen()
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name.isupper():
            return None
        if "|" in name:  # `zen models list|pull`
            return None if set(name.split("|")) <= set(command.commands) else f"{name}: no such commands"
        if name not in command.commands:
            return f"{name}: no such command"
        command = command.commands[name]
    options = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
    unknown = [flag for flag in flags if flag not in options]
    return f"{command.name}: no option {', '.join(unknown)}" if unknown else None


@on_every_page
def test_paths(page: Path) -> None:
    paths = [path.rstrip(".,-") for path in _PATH.findall(text_of(page)) if not is_placeholder(path)]
    missing = [each for path in paths for each in spelled_out(path) if not (ROOT / each).exists()]
    assert missing == []


@on_every_page
def test_file_names(page: Path) -> None:
    """A file named alone lies somewhere in the repository."""
    folders = [ROOT, page.parent, *(ROOT / name for name in FOLDERS)]
    for name in _FILE.findall(text_of(page)):
        known = is_placeholder(name) or any((folder / name).exists() for folder in folders)
        assert known or any(next((ROOT / folder).rglob(name), None) for folder in FOLDERS), name


@on_every_page
def test_links(page: Path) -> None:
    for link in _LINK.findall(text_of(page)):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@on_every_page
def test_dotted_names(page: Path) -> None:
    for name in _DOTTED.findall(text_of(page)):
        assert resolved(name) is not None, name


def resolved(name: str) -> Any:
    """The module or attribute of that dotted name, None where there is none."""
    first, *rest = name.split(".")
    found = importlib.import_module(first)
    for index, part in enumerate(rest):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join([first, *rest[: index + 1]]))
            except ModuleNotFoundError:
                return None
        found = getattr(found, part)
    return found


@on_every_page
def test_python_blocks(page: Path) -> None:
    """Every import works, and what is called on a manager is there."""
    from zen_mlx import ZenPersonalizationManager

    for language, body in _FENCED.findall(text_of(page)):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "manager":
                known = set(dir(ZenPersonalizationManager)) | {"active", "config", "home", "store"}
                assert node.attr in known, node.attr


@on_every_page
def test_commands(page: Path) -> None:
    found = [(words, problem(words)) for words in commands(page)]
    assert [f"zen {' '.join(words)}: {wrong}" for words, wrong in found if wrong] == []


def test_commands_are_found_and_looked_at() -> None:
    assert sum(1 for page in PAGES for _ in commands(page)) > 60
    assert problem(["profile", "merge", "a", "b", "--as", "c"]) is None
    assert problem(["profile", "mix", "a"]) == "mix: no such command"
    assert problem(["train", "x", "--profil", "a"]) == "train: no option --profil"
    assert problem(["eval", "x", "-p", "a", "-q"]) == "eval: no option -q"


@on_every_page
def test_options_named_alone(page: Path) -> None:
    """An option in the text is one of a `zen` command, of a script of ours, or of a program that the page names."""
    known = {"--hostfile", "--durations"} | set(all_options(zen()))
    for script in (ROOT / "scripts").iterdir():
        if script.is_file():
            known |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", script.read_text(encoding="utf-8")))
    named = [span.split()[0].partition("=")[0] for span in _SPAN.findall(_FENCED.sub("", text_of(page)))]
    assert [name for name in named if re.fullmatch(r"--[a-z][a-z-]*", name) and name not in known] == []


def all_options(command: Any) -> Iterator[str]:
    for each in command.params:
        yield from (*each.opts, *each.secondary_opts)
    for inner in getattr(command, "commands", {}).values():
        yield from all_options(inner)


@on_every_page
def test_scripts_are_called_with_options_that_they_have(page: Path) -> None:
    for line in code_lines(page):
        called = re.search(r"(scripts/\w+(?:\.py)?)((?:\s+\S+)*)", line)
        if called:
            text = (ROOT / called[1]).read_text(encoding="utf-8")
            flags = re.findall(r"(?<!\S)--[a-z-]+", called[2].partition("#")[0])
            assert [flag for flag in flags if f'"{flag}"' not in text and f"{flag})" not in text] == [], line


def test_readme_is_one_page() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 160


def test_no_page_is_orphaned() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(text_of(index))}
    assert {page.resolve() for page in (ROOT / "docs").glob("*.md")} - {index} <= linked
    readme = set(_LINK.findall(text_of(ROOT / "README.md")))
    assert readme >= {"docs/README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
