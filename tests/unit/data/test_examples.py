"""Rows of every kind, and every row that is refused: named by file and line, never by its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zen_mlx.data.examples import Example, data_digest, load_examples, load_files, parse_row, split_held_out
from zen_mlx.errors import DataError

SECRET = "canary-7f3a"
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def rows_file(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_every_kind_of_row(tmp_path: Path) -> None:
    system = {"role": "system", "content": ""}
    path = rows_file(
        tmp_path, {"messages": [system, *TURNS]}, "", {"prompt": "p", "completion": "c"}, {"text": "t"}, '"bare"'
    )
    assert load_files([path]) == [
        Example(f"{path}:1", messages=(("system", ""), ("user", "q"), ("assistant", "a"))),
        Example(f"{path}:3", messages=(("user", "p"), ("assistant", "c"))),
        Example(f"{path}:4", text="t"),
        Example(f"{path}:5", text="bare"),
    ]


def test_python_values_and_paths_mix(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("\ufeffnotes", encoding="utf-8")
    given = load_examples(["a string", {"text": "t"}, notes, str(notes), Example("kept", text="k")])
    assert [row.text for row in given] == ["a string", "t", "notes", "notes", "k"]
    assert [row.source for row in given] == ["item 1", "item 2", str(notes), str(notes), "kept"]
    assert load_examples({"text": "one"})[0].text == "one"


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    rows_file(tmp_path, {"text": "2"}, name="b.jsonl")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.txt").write_text("1")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert [row.text for row in load_examples(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize("text", ["x" * 700, "~nobody-of-this-name says hello", "two\nlines.txt", "nul \0 inside", "/"])
def test_strings_that_are_not_paths_are_texts(text: str) -> None:
    if text == "/":
        text = "/no/such/folder"
    assert load_examples([text])[0].text == text


def test_an_empty_string_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_file(tmp_path, {"text": SECRET})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="item 1"):
        load_examples([""])


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": SECRET}, "messages"),
        ({"messages": [SECRET]}, "messages[0]"),
        ({"messages": [{"role": SECRET, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": [SECRET], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [SECRET]}]}, "messages[0].content"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": " \n"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": SECRET}]}, "messages"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": f"{SECRET}\ud800"}]}, "messages[1].content"),
        ({"prompt": SECRET, "completion": ""}, "completion"),
        ({"prompt": 3, "completion": SECRET}, "prompt"),
        ({"prompt": SECRET, "completion": "\udfff"}, "completion"),
        ({"text": ""}, "text"),
        ({"text": [SECRET]}, "text"),
        ({"text": f"{SECRET}\ud83d"}, "text"),
        ({SECRET + " is a key": 1, "output": SECRET}, None),
        ({}, None),
        ([SECRET], None),
        (17, None),
        ('{"text": "' + SECRET, None),
        ("[" * 200_000, None),
        ('{"text": ' + "7" * 5000 + "}", None),
    ],
)
def test_bad_rows_are_named_by_line_and_never_shown(tmp_path: Path, row: Any, field: str | None) -> None:
    path = rows_file(tmp_path, {"text": "good"}, row)
    with pytest.raises(DataError) as caught:
        load_examples(path)
    error = caught.value
    assert error.path == f"{path}:2"
    assert error.field == field
    assert f"{path}:2" in str(error)
    assert SECRET not in f"{error} {error.to_dict()}"
    assert error.__cause__ is None, "a cause's message may quote the line"


def test_the_fields_of_a_row_without_data_are_named() -> None:
    with pytest.raises(DataError) as caught:
        parse_row({"question": "i", "answer": "o"}, "rows:1")
    assert caught.value.found == "answer, question"


def test_bad_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.xlsx").write_bytes(b"x")
    for path, words in (
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / "empty", "no data files"),
        (tmp_path / "table.xlsx", "unknown kind"),
        (rows_file(tmp_path, "", " "), "no rows"),
        (latin, "not UTF-8"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            load_files([path])
        assert caught.value.path == str(path)
    with pytest.raises(DataError, match="nothing to read"):
        load_examples([])
    with pytest.raises(DataError, match="string, a dict or a path") as caught:
        load_examples(["fine", 3.5])
    assert caught.value.field == "item 2"


def test_digest_is_of_content_and_order() -> None:
    one, two = Example("a:1", text="x"), Example("b:9", text="x")
    assert one.digest() == two.digest()
    assert one.digest() != Example("a:1", messages=(("user", "x"),)).digest()
    other = Example("c", text="y")
    assert data_digest([one, other]) == data_digest([two, other]) != data_digest([other, two])


def test_split_is_by_content_and_never_leaks() -> None:
    examples = [Example(f"f:{i}", text=f"row {i}") for i in range(200)]
    train, held = split_held_out(examples)
    assert len(held) == 10
    assert len(train) == 190
    again = split_held_out([*reversed(examples), *examples])
    assert {row.text for row in again[1]} >= {row.text for row in held}
    assert not {row.text for row in again[0]} & {row.text for row in again[1]}
    assert len(split_held_out([Example("f", text=str(i)) for i in range(5000)])[1]) == 50
    assert split_held_out(examples[:39]) == (examples[:39], [])
    same = [Example("f", text="same")] * 60
    assert split_held_out(same) == (same, [])
