"""PEFT's per-module patterns: {pattern: value} -> the value of the first pattern that a module's name ends with.

PEFT runs each pattern as a regular expression. One from a file could take for ever, so only those are read whose time is
bounded: names, `\\.`, `^` in front, `$` behind, and at most two of `.*`, `\\d+`, `[0-9]+`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from ...format.spec import Fail, show

_T = TypeVar("_T")
_MAX_PATTERNS = 4096
_MAX_WILD = 2
_TOKEN = re.compile(r"(?P<wild>\.\*|\\d\+|\[0-9\]\+)|(?P<plain>\\\.|[A-Za-z0-9_.-])")


def first_match(table: Mapping[str, _T], where: str, unsupported: Fail) -> Callable[[str], _T | None]:
    """module name -> value of the first pattern that fits, or None."""
    if len(table) > _MAX_PATTERNS:
        unsupported("too many patterns", field=where, expected=f"<= {_MAX_PATTERNS}", found=len(table))
    plain: dict[str, tuple[int, _T]] = {}
    wild: list[tuple[int, re.Pattern[str], _T]] = []
    for order, (pattern, value) in enumerate(table.items()):
        text, wilds = _translate(pattern, where, unsupported)
        if wilds or pattern.startswith("^"):
            anchored = text if pattern.startswith("^") else rf"(?:.*\.)?{text}"
            wild.append((order, re.compile(anchored, re.DOTALL), value))
        else:
            plain.setdefault(pattern.removesuffix("$").replace("\\.", "."), (order, value))

    def find(module: str) -> _T | None:
        parts = module.split(".")
        ends = (".".join(parts[at:]) for at in range(len(parts)))
        found = [plain[end] for end in ends if end in plain]
        found += [(order, value) for order, pattern, value in wild if pattern.fullmatch(module)]
        return min(found, key=lambda each: each[0])[1] if found else None

    return find


def _translate(pattern: str, where: str, unsupported: Fail) -> tuple[str, int]:
    text = pattern.removeprefix("^").removesuffix("$")
    out, at, wilds = [], 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            break
        wilds += match["wild"] is not None
        out.append(match["wild"] or re.escape(match["plain"].removeprefix("\\")))
        at = match.end()
    if at < len(text) or not text or len(text) > 1024 or wilds > _MAX_WILD:
        expected = f"a name with at most {_MAX_WILD} wildcards"
        unsupported("unsupported pattern", field=where, expected=expected, found=show(pattern))
    return "".join(out), wilds
