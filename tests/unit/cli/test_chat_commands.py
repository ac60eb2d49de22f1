"""Which lines of a chat are commands."""

from __future__ import annotations

import pytest

from zen_mlx.cli._chat_commands import is_command


@pytest.mark.parametrize("line", ["/help", "/profile cynic", "/nonsense", "/set temp 0.5", "/save /tmp/x", "/quit "])
def test_commands(line: str) -> None:
    assert is_command(line)


@pytest.mark.parametrize(
    "line", ["/usr/bin/env python: what does this line do?", "/etc/hosts", "//", "what is /help", "", " /help"]
)
def test_questions(line: str) -> None:
    assert not is_command(line)
