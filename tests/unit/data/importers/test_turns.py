"""Turns of the public row formats: what becomes of weights, thoughts, calls and lists, and which fields are told as unused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zen_mlx.data.examples import import_examples, parse_row
from zen_mlx.data.importers.rows import parse_kind, unused_fields
from zen_mlx.errors import DataError

ASK = {"from": "human", "value": "q"}


def learned(row: Any) -> list[str]:
    example = parse_row(row, "r:1")
    return [
        content
        for index, (role, content) in enumerate(example.messages or ())
        if role == "assistant" and index not in example.unsupervised()
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"conversations": [ASK, {"from": "gpt", "value": "bad", "weight": 0}, ASK, {"from": "gpt", "value": "ok"}]},
            ["ok"],
        ),
        ({"conversations": [ASK, {"from": "gpt", "value": "a", "weight": 0}, {"from": "gpt", "value": "b"}]}, ["b"]),
        ({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ["a"]),
        ({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}, ["a"]),
        ({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]}, ["a"]),
        (
            {
                "system": "s",
                "prompt": [
                    ASK | {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "old"},
                    {"role": "user", "content": "q"},
                ],
                "completion": [{"role": "assistant", "content": "new"}],
            },
            ["new"],
        ),
        ({"instruction": "q", "context": "c", "response": "a", "category": "x"}, ["a"]),
    ],
)
def test_what_is_learned(row: Any, expected: list[str]) -> None:
    assert learned(row) == expected


def test_a_conversation_whose_every_answer_has_weight_0_is_refused() -> None:
    with pytest.raises(DataError, match="weight 0"):
        parse_row({"conversations": [ASK, {"from": "gpt", "value": "a", "weight": 0}]}, "r:1")


def test_context_stands_behind_the_instruction() -> None:
    example = parse_row({"instruction": "When?", "context": "It began in 1911.", "response": "1911."}, "r:1")
    assert example.messages == (("user", "When?\n\nIt began in 1911."), ("assistant", "1911."))


def test_a_list_of_calls_is_one_turn() -> None:
    calls = json.dumps([{"name": "w", "arguments": {"c": city}} for city in "AB"])
    turns = [
        ASK,
        {"from": "function_call", "value": calls},
        {"from": "observation", "value": "[1]"},
        {"from": "gpt", "value": "1"},
    ]
    messages = parse_row({"conversations": turns}, "r:1").chat_messages()
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert [call["function"]["arguments"] for call in messages[1]["tool_calls"]] == [{"c": "A"}, {"c": "B"}]


@pytest.mark.parametrize(
    ("row", "unused"),
    [
        ({"instruction": "q", "context": "c", "response": "a", "category": "open_qa"}, ["category"]),
        ({"prompt": "q", "completion": "a", "language": "", "id": None}, []),
        (
            {
                "prompt": "q",
                "messages": [{"role": "user", "content": "q", "date": "x"}, {"role": "assistant", "content": "a"}],
            },
            ["messages.date", "prompt"],
        ),
        (
            {"conversations": [ASK, {"from": "gpt", "value": "a", "markdown": {"type": "m"}}], "a secret as a key": 1},
            ["...", "conversations.markdown"],
        ),
        ({"text": "t", "role": "prompter", "lang": "en"}, ["lang", "role"]),
    ],
)
def test_fields_with_content_that_are_not_used_are_named(row: Any, unused: list[str]) -> None:
    assert unused_fields(row, parse_kind(row, "r:1")[0]) == unused


def test_unused_fields_of_files_are_counted(tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text("".join(json.dumps({"text": f"t{n}", "lang": "en"}) + "\n" for n in range(3)))
    table = tmp_path / "b.csv"
    table.write_text("question,answer,topic\nq,a,x\n")
    report = import_examples([rows], None)[1]
    assert {name: each.count for name, each in report.unused.items()} == {"lang": 3}
    assert report.to_dict()["unused_fields"][0]["places"][0] == f"{rows}:1"
