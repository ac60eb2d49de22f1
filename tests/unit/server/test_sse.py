"""Server-sent events."""

from __future__ import annotations

import json

from zen_mlx.server.sse import sse


def test_an_event_is_one_line_however_a_client_splits_lines() -> None:
    """httpx and others split at U+0085, U+2028 and U+2029 too, which models write."""
    said = {"text": "a\u2028b\u2029c\x85d\x1ce é"}
    line, rest = sse(said).splitlines()
    assert json.loads(line.removeprefix("data: ")) == said
    assert not rest
