"""Patterns of PEFT's configurations match what Python's `re` matches in PEFT's own expression."""

from __future__ import annotations

import random
import re
from typing import Any, NoReturn

import pytest

from zen_mlx.interop.parse import name_patterns
from zen_mlx.interop.parse.name_patterns import all_matches

ATOMS = (
    r"\.", ".", "a", "b", "q_proj", "[ab]", "[^a.]", r"\d", r"\w", r"\W", r"\s", r"\S", "(?:a|b)", "(?!a)", "(?=a)",
    "(?<=a)", "(?<!b)", "^", "$", r"\b", r"\B", r"\A", r"\Z", "1", "(a|ab)", "(?i:A)", r"[\d_a]", r"[^\d]", "[A-Z]",
    "(?i:[A-C])", "(?P<x>b)",
)  # fmt: skip
REPEATS = ("", "", "", "*", "+", "?", "{2}", "{1,3}", "*?", "{0,2}?", "{2,}")
NAMES = ("a.b", "ab.1.q_proj", "aab.q_proj", "b1.a", "q_proj", "aaaa", "a.ab.b1", "model.layers.1.q_proj", "A.b")


def refuse(message: str, **facts: Any) -> NoReturn:
    raise ValueError(message, facts)


def test_random_patterns_match_as_re_does() -> None:
    choose, matched = random.Random(3), 0
    for _ in range(3000):
        pattern = "".join(choose.choice(ATOMS) + choose.choice(REPEATS) for _ in range(choose.randint(1, 4)))
        pattern = f"({pattern}){choose.choice('*+?')}" if choose.random() < 0.2 else pattern
        pattern = f"{pattern}|{choose.choice(ATOMS)}" if choose.random() < 0.2 else pattern
        try:
            peer = re.compile(rf"(.*\.)?({pattern})$")
        except re.error:
            continue
        find = all_matches({pattern: 1}, "rank_pattern", refuse)
        for name in NAMES:
            assert bool(find(name)) == bool(peer.match(name)), (pattern, name)
            matched += bool(find(name))
    assert matched > 1000


def test_all_matches_come_in_the_tables_order() -> None:
    table = {"v_proj": 1, ".*q_proj": 2, "self_attn.q_proj": 3, "q_proj": 4, r"self_attn\.q_proj": 5}
    found = all_matches(table, "rank_pattern", refuse)("model.layers.0.self_attn.q_proj")
    assert [value for _, value in found] == [2, 3, 4, 5]


@pytest.mark.parametrize("pattern", ["(", "*", r"(a)\1\2", r"(a)(?(2)b)", "(?>a)", "a++", "(a|b)" * 300, "(?x:a b)"])
def test_what_is_not_read_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="unsupported pattern"):
        all_matches({pattern: 1}, "rank_pattern", refuse)("a.b")


@pytest.mark.parametrize(
    "pattern", ["(.*)(.*|.)*x", f"[{''.join(map(chr, range(0x4E00, 0x4F00, 2)))}]", "(?i:(.|..)*)y"]
)
def test_what_would_take_too_long_is_refused(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_patterns, "_MAX_STEPS", 2000)
    find = all_matches({pattern: 1}, "rank_pattern", refuse)
    with pytest.raises(ValueError, match="unsupported pattern") as caught:
        list(map(find, (f"model.layers.{layer}.self_attn.q_proj" for layer in range(1000))))
    assert "takes too long" in str(caught.value)
