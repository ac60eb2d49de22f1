"""The words of Slack's blocks, for a message whose `text` is empty: docs.slack.dev/reference/block-kit/blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_DEPTH = 20
_OWN_LINE = ("rich_text_section", "rich_text_quote", "rich_text_preformatted", "section", "header")


def block_text(blocks: Any, users: Mapping[str, tuple[str, ...]]) -> str:
    """Their words as plain text, a section a line; "" where there are none."""
    if not isinstance(blocks, list):
        return ""
    return "".join(_words(block, users, 0) for block in blocks).strip()


def _words(element: Any, users: Mapping[str, tuple[str, ...]], depth: int) -> str:
    if not isinstance(element, dict) or depth > _MOST_DEPTH:
        return ""
    kind, text = element.get("type"), element.get("text")
    inner = element.get("elements")
    if kind == "user":
        identity = str(element.get("user_id", ""))
        return "@" + users.get(identity, (identity,))[0]
    if kind == "link":
        return text if isinstance(text, str) and text else str(element.get("url", ""))
    if kind == "emoji":
        return f":{element.get('name', '')}:"
    if kind == "broadcast":
        return f"@{element.get('range', '')}"
    own = text if isinstance(text, str) else _words(text, users, depth + 1)
    below = "".join(_words(each, users, depth + 1) for each in inner) if isinstance(inner, list) else ""
    return own + below + ("\n" if kind in _OWN_LINE else "")
