"""`scripts/layout.py` passes on the package, and finds each kind of problem in a package that has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import layout


def package(root: Path, **files: str) -> Path:
    """The package `p`; a key is the file's path with `__` for each slash."""
    for name, text in {"": "", **files}.items():
        path = root / "p" / f"{name.replace('__', '/') or '__init__'}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "p"


def found(root: Path, **files: str) -> list[str]:
    return list(layout.problems(package(root, **files), {"twin": "a reason"}))


TWINS = {"a__twin": "", "b__twin": ""}


def test_the_package_is_as_the_script_wants_it() -> None:
    assert list(layout.problems(layout.PACKAGE)) == []
    assert len(layout.SHARED) <= 8
    assert all(layout.SHARED.values())


def test_what_may_be_is_no_problem(tmp_path: Path) -> None:
    files = {"edge": "\n" * 300, "_edge": "from . import edge\nfrom .a import twin"}
    assert found(tmp_path, **TWINS, **files) == []


@pytest.mark.parametrize(
    "back",
    ["from .. import one", "from ..one import x", "import p.one", "def f():\n    from p.one import x",
     "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import one"],
)  # fmt: skip
def test_a_circle(tmp_path: Path, back: str) -> None:
    files = {"one": "from .two import three", "two__three": "import p.four", "four": "from .two import last"}
    assert found(tmp_path, **TWINS, **files, two__last=back) == [
        "import circle: p.four -> p.two.last -> p.one -> p.two.three -> p.four"
    ]


def test_a_long_module_a_second_name_and_a_listed_one_that_stands_once(tmp_path: Path) -> None:
    assert found(tmp_path, a__long="\n" * 301, a__twin="\n" * 301, a__x="", b__c__x="") == [
        "p.a.long: 301 lines, more than 300",
        "p.a.twin: 301 lines, more than 300",
        "one module name in several packages: p.a.x, p.b.c.x",
        "twin: listed in SHARED, but no two packages have it",
    ]
