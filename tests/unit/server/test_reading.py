"""Answers in odd pieces -> text, thoughts and calls."""

from __future__ import annotations

import itertools

import pytest

from zen_mlx.server.reading import CALL, TEXT, THOUGHT, Found, Reader, Span

CALLS = Span(CALL, "<tool_call>", "</tool_call>")
OPEN_END = Span(CALL, "[CALLS]", "")
THOUGHTS = Span(THOUGHT, "<think>", "</think>")


def read(text: str, step: int, *spans: Span, cut: bool = False, inside: Span | None = None) -> list[tuple[str, str]]:
    reader = Reader(spans, inside)
    found: list[Found] = []
    for at in range(0, len(text), step):
        found += reader.feed(text[at : at + step])
    found += reader.end(cut)
    groups = itertools.groupby(found, key=lambda each: (each.kind, id(each) if each.kind == CALL else 0))
    return [(kind, "".join(each.text for each in group)) for (kind, _), group in groups]


@pytest.mark.parametrize("step", range(1, 40))
def test_every_division_into_pieces_reads_the_same(step: int) -> None:
    text = "<think>hm <tool</think>\n\nI < you.<tool_call>a</tool_call>\n<tool_call>b</tool_call> done <tool"
    assert read(text, step, CALLS, THOUGHTS) == [
        (THOUGHT, "hm <tool"),
        (TEXT, "I < you."),
        (CALL, "a"),
        (CALL, "b"),
        (TEXT, "done <tool"),
    ]


def test_a_cut_call_is_no_call_and_no_text() -> None:
    assert read("Yes.<tool_call>{...", 4, CALLS, cut=True) == [(TEXT, "Yes.")]
    assert read("Yes.<tool_call>{...", 4, CALLS) == [(TEXT, "Yes.")]


def test_a_call_that_ends_with_the_answer() -> None:
    assert read("Yes.[CALLS]abc", 2, OPEN_END) == [(TEXT, "Yes."), (CALL, "abc")]
    assert read("Yes.[CALLS]abc", 2, OPEN_END, cut=True) == [(TEXT, "Yes.")]


def test_the_prompt_may_have_opened_the_thought() -> None:
    assert read("hm</think>\nHi", 3, THOUGHTS, inside=THOUGHTS) == [(THOUGHT, "hm"), (TEXT, "Hi")]
    assert read("hm", 1, THOUGHTS, inside=THOUGHTS, cut=True) == [(THOUGHT, "hm")]


def test_only_what_may_be_a_marker_is_held_back() -> None:
    reader = Reader([CALLS])
    assert reader.feed("abc<tool_") == [Found(TEXT, "abc")]
    assert reader.feed("x") == [Found(TEXT, "<tool_x")]


def test_without_spans_everything_is_text() -> None:
    assert read("<tool_call>a</tool_call>", 5) == [(TEXT, "<tool_call>a</tool_call>")]
