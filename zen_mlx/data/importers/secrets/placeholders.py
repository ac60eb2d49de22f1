"""Parts of a text -> the placeholder of their kind, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

KEY = "key or token"
PASSWORD = "password"
CARD = "card number"
ACCOUNT = "account number"


def substitute(
    pattern: re.Pattern[str],
    text: str,
    kind: str,
    counts: Counter[str],
    accept: Callable[[re.Match[str]], bool] = lambda match: True,
) -> str:
    """Every accepted match, or its group `value`, replaced."""
    group = "value" if "value" in pattern.groupindex else 0
    return replace_spans(
        text, ((*match.span(group), kind) for match in pattern.finditer(text) if accept(match)), counts
    )


def replace_spans(text: str, spans: Iterable[tuple[int, int, str]], counts: Counter[str]) -> str:
    """`text` with `[kind]` in the place of each (begin, end, kind), which are in order and do not overlap."""
    parts: list[str] = []
    at = 0
    for begin, end, kind in spans:
        parts += [text[at:begin], f"[{kind}]"]
        counts[kind] += 1
        at = end
    return "".join([*parts, text[at:]]) if parts else text
