"""A text whose lines are somebody's words is no text of yours: such a file is refused, whatever program wrote it.

A line speaks when it begins with a date or a clock and then names somebody before a colon, or in angle brackets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ...errors import DataError
from ..example import Example
from .dated_lines import DAY, HOUR, MARKS, WEEKDAY
from .entries import Entry
from .lines import read_text
from .tally import Tally

_SPEAKS = re.compile(
    rf"{MARKS}[\[(]?{MARKS}{WEEKDAY}(?:{DAY}|{HOUR}|\d{{1,2}}[./-]\d{{1,2}}(?!\d))"
    rf"(?:[^:：\n]{{0,30}}?{HOUR}(?::\d{{2}})?)?"
    r"(?:[^:：<>\n]{0,24}?<(?P<nick>[^<>\n]{1,60})>|[^:：\w\n]{0,3}(?:[^:：\n]{0,24}?[\])\s–—-])?"
    r"(?P<name>[^\s\d:：<>][^:：<>\n]{0,60}?)\s?[:：](?:\s|$))",
    re.IGNORECASE,
)
_LINES = 5000
_WIDTH = 400


def read_own_text(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The whole file as one text, unless most of its lines are people speaking."""
    if _is_spoken(entry):
        raise DataError(
            "this text looks like a chat of a kind that is not read",
            path=entry.label,
            expected="a chat in a form that docs/data.md lists, or a text of your own",
            hint=f"--as-text {entry.label} learns all of it as a text, also what others wrote",
        )
    yield from read_text(entry, tally)


def _is_spoken(entry: Entry) -> bool:
    """True when half of the lines speak, or a fifth of them by few names that return."""
    lines = spoken = 0
    names: Counter[str] = Counter()
    for line in _starts(entry):
        lines += bool(line.strip())
        if match := _SPEAKS.match(line):
            spoken += 1
            names[(match["nick"] or match["name"]).strip()] += 1
    if spoken < 2:
        return False
    return 2 * spoken >= lines or (spoken >= 4 and 5 * spoken >= lines and 2 * len(names) <= spoken)


def _starts(entry: Entry) -> Iterator[str]:
    """The starts of the first lines of a text, however long the lines are."""
    with entry.open_text() as handle:
        whole = True
        for _ in range(_LINES):
            piece = handle.readline(_WIDTH)
            if not piece:
                break
            if whole:
                yield piece.rstrip("\n")
            whole = piece.endswith("\n")
