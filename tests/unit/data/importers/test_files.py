"""Rows of every format, tables, folders and archives: what is read, what is counted, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from export_files import folder_of, jsonl, slack_files, zip_of

from zen_mlx.data.examples import (
    Example,
    ImportOptions,
    data_digest,
    import_examples,
    load_examples,
    load_files,
    parse_row,
    split_held_out,
)
from zen_mlx.errors import DataError

EXAMPLES = Path(__file__).parents[4] / "examples"


def turns(row: Any, **options: Any) -> Any:
    return parse_row(row, "rows:1", **options).messages


def test_the_published_examples_are_read_as_ever() -> None:
    for name, digest in (
        ("cynic.train", "b8ddcb11df8ab04c18dbeb4fe6b1cc7a1c42082cd684445e7ea07c9be25bad29"),
        ("cynic.valid", "f7382a2dfdfff281f43a01aea672917ff07ef7f124ee64cebea5a12137b613bb"),
        ("hacker.train", "256f2291141234ce5a78ea087c8c9cd0400ccf4fd2c0b48dcce7869980aa6e5e"),
        ("hacker.valid", "3ed4e83bd67bdb945100b0651a4d44b213b5d0f2b369724488df4238fb61d7fd"),
    ):
        assert data_digest(load_examples(EXAMPLES / f"{name}.jsonl")) == digest


def test_sharegpt() -> None:
    said = [
        {"from": "gpt", "value": "an answer to nothing"},
        {"from": "human", "value": "a"},
        {"from": "human", "value": "b"},
        {"from": "gpt", "value": "c"},
        {"from": "gpt", "value": "d"},
    ]
    assert turns({"id": "x", "conversations": said}) == (("user", "a\nb"), ("assistant", "c\nd"))
    assert turns({"system": "s", "conversations": said[1:2] + said[3:4]}) == (
        ("system", "s"),
        ("user", "a"),
        ("assistant", "c"),
    )
    called = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "It is sunny."},
    ]
    made = parse_row(
        {"conversations": called, "tools": '[{"type": "function", "function": {"name": "weather"}}]'}, "r:1"
    )
    assert [role for role, _ in made.messages or ()] == ["user", "assistant", "tool", "assistant"]
    assert made.chat_messages()[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Bern"}}
    assert made.tool_list() == [{"type": "function", "function": {"name": "weather"}}]


def test_alpaca() -> None:
    assert turns({"instruction": "i", "input": "", "output": "o"}) == (("user", "i"), ("assistant", "o"))
    assert turns({"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["q", "a"]]}) == (
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "i\n\nx"),
        ("assistant", "o"),
    )


def test_openai_tools_parts_and_weights() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    row = {
        "messages": [
            {"role": "developer", "content": "rules"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "assistant", "content": "no", "weight": 0},
            {"role": "assistant", "content": "yes", "weight": 1},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    made = parse_row(row, "r:1")
    assert made.messages == (
        ("system", "rules"),
        ("user", "ab"),
        ("assistant", ""),
        ("tool", "1"),
        ("assistant", "no"),
        ("assistant", "yes"),
    )
    assert made.unsupervised() == {4}
    shown = made.chat_messages()
    assert shown[2]["tool_calls"] == [{**call, "function": {"name": "f", "arguments": {"x": 1}}}]
    assert shown[3]["tool_call_id"] == "c1"
    assert "weight" not in shown[4]
    plain = Example("r", made.messages)
    assert made.digest() != plain.digest()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "weight 0"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, "0 or 1"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": "x"}]}]}, "with a name"),
        ({"messages": [{"role": "assistant", "content": "x"}], "tools": "{"}, "tools must be"),
        ({"conversations": []}, "non-empty list"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "unknown role"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "no assistant"),
        ({"conversations": [{"from": "function_call", "value": "x"}]}, "with a name"),
        ({"instruction": "", "output": "o"}, "instruction must"),
        ({"instruction": "i", "output": 3}, "output must"),
        ({"instruction": "i", "output": "o", "history": [["q"]]}, "pairs"),
    ],
)
def test_rows_that_cannot_be_used(row: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_row(row, "rows:1")


def test_formats_mix_by_row_and_bad_rows_are_counted(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "rows.jsonl",
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"prompt": "p", "completion": "c"},
        {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]},
        {"instruction": "i", "output": "o"},
        {"text": "t"},
        "not json",
        {"prompt": "p", "completion": ""},
        {"prompt": "p", "completion": "c"},
        {"messages": []},
    )
    with path.open("ab") as handle:
        handle.write(b'\n{"text": "caf\xe9"}\n' + b"[" * 100_000)
    examples, report = import_examples(path)
    assert len(examples) == 5
    assert report.files == {
        str(path): {"messages": 1, "prompt/completion": 2, "ShareGPT": 1, "Alpaca": 1, "text": 1},
    }
    assert {reason: each.places for reason, each in report.refused.items()} == {
        "not valid JSON": [f"{path}:6", f"{path}:11"],
        "completion must be a non-empty string of valid Unicode (completion)": [f"{path}:7"],
        "messages must be a non-empty list (messages)": [f"{path}:9"],
        "not UTF-8 text": [f"{path}:10"],
    }
    assert report.duplicates.places == [f"{path}:8"]
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert caught.value.path == f"{path}:6"


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not valid JSON"):
        import_examples(jsonl(tmp_path / "a.jsonl", "x", "y"))


@pytest.mark.parametrize("indent", [None, 2])
def test_json_files(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "data.json"
    rows = [{"instruction": "i", "output": "o"}, {"text": "t", "n": 1.5}, {"nothing": 1}]
    path.write_text("\n" + json.dumps(rows, indent=indent))
    examples, report = import_examples(path)
    assert [each.source for each in examples] == [f"{path}:row 1", f"{path}:row 2"]
    assert sum(each.count for each in report.refused.values()) == 1
    path.write_text(json.dumps(rows, indent=indent)[:-9])
    with pytest.raises(DataError, match="not valid JSON"):
        import_examples(path)
    path.write_text("\n".join(json.dumps(row) for row in rows[:2]))
    assert len(load_examples(path)) == 2, "rows in lines, whatever the suffix says"
    path.write_text(json.dumps({"messages": [{"role": "assistant", "content": "a"}]}, indent=indent))
    assert load_examples(path)[0].messages == (("assistant", "a"),)
    path.write_text("[]")
    with pytest.raises(DataError, match="no rows"):
        load_examples(path)
    path.write_text("[" * 200_000)
    with pytest.raises(DataError):
        load_examples(path)
    for other in ("17", json.dumps({"name": "package", "version": 1}, indent=indent)):
        path.write_text(other)
        with pytest.raises(DataError, match="unknown kind"):
            load_examples(path)


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "question", "answer"])
        writer.writerow([1, "What, now?", 'It is "fine"\nand long'])
        writer.writerow([2, "Next", ""])
        writer.writerow([3, "short"])
        writer.writerow([4, "Last", "ok"])
    with pytest.raises(DataError, match="no known column") as caught:
        load_examples(path)
    assert caught.value.found == "answer, id, question"
    for columns in ("prompt=question, completion=answer", {"prompt": "question", "completion": "answer"}):
        examples, report = import_examples(path, ImportOptions.of(columns=columns))
        assert [each.messages for each in examples] == [
            (("user", "What, now?"), ("assistant", 'It is "fine"\nand long')),
            (("user", "Last"), ("assistant", "ok")),
        ]
        assert [each.source for each in examples] == [f"{path}:2", f"{path}:6"]
        assert {place for each in report.refused.values() for place in each.places} == {f"{path}:4", f"{path}:5"}
    with pytest.raises(DataError, match="no known column"):
        import_examples(path, ImportOptions.of(columns="prompt=Q,completion=A"))
    for header, mark, suffix in (("prompt\tcompletion", "\t", "tsv"), ("prompt;completion", ";", "csv")):
        plain = tmp_path / f"plain.{suffix}"
        plain.write_text(f"{header}\np, q{mark}c\n")
        assert load_examples(plain)[0].messages == (("user", "p, q"), ("assistant", "c"))
    utf16 = tmp_path / "excel.tsv"
    utf16.write_text("text\nnaïve\n", encoding="utf-16")
    assert load_examples(utf16)[0].text == "naïve"


def test_a_table_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "chat.csv"
    path.write_text(
        "who,what,when,room\nAnna,hi,2023-11-14T10:00:00Z,a\nBob,yo,2023-11-14T10:00:30,b\nKim,hello,2023-11-14T10:01:00Z,a\n"
        "Anna,,2023-11-14T10:02:00Z,a\nAnna,again,2023-11-15T10:00:00Z,a\nKim,yes,1700042460000,a\n"
    )
    columns = "sender=who,message=what,time=when,conversation=room"
    examples, report = import_examples(path, ImportOptions.of("kim", columns))
    assert [each.messages for each in examples] == [
        (("user", "hi"), ("assistant", "hello")),
        (("user", "again"), ("assistant", "yes")),
    ]
    assert report.skipped["a message without sender or text"].places == [f"{path}:5"]


@pytest.mark.parametrize("columns", ["x", "prompt=", "prompt=a,prompt=b", "color=a", "prompt=a", {"sender": "a"}])
def test_column_maps_that_say_nothing(columns: Any) -> None:
    with pytest.raises(DataError) as caught:
        ImportOptions.of(columns=columns)
    assert caught.value.field == "columns"


def test_columns_name_the_fields_of_rows_too() -> None:
    row = {"q": "a", "a": "b", "text": "t"}
    assert turns(row, columns={"prompt": "q", "completion": "a"}) == (("user", "a"), ("assistant", "b"))
    assert parse_row({"text": "t"}, "r", {"prompt": "q", "completion": "a"}).text == "t"


def mixed_folder(root: Path) -> Path:
    folder_of(
        root,
        {
            "notes/a.md": "# a note",
            "notes/b.txt": "b",
            "rows.jsonl": '{"text": "row"}\n{"nothing": 1}',
            "package.json": '{"name": "x"}',
            "numbers.csv": "x,y\n1,2\n",
            "bad.txt": "",
            ".git/config.md": "hidden",
        },
    )
    (root / "latin.txt").write_bytes(b"caf\xe9")
    (root / "other.db").write_bytes(b"not a database")
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_and_an_archive_of_all_kinds(tmp_path: Path, packed: bool) -> None:
    root = mixed_folder(tmp_path / "all")
    if packed:
        files: dict[str, str | bytes] = {
            str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()
        }
        root = zip_of(tmp_path / "all.zip", files)
    examples, report = import_examples(root)
    assert [each.text for each in examples] == ["# a note", "b", "row"]
    assert examples[0].source == f"{root}/notes/a.md"
    assert report.skipped["a file of unknown format"].count == 3
    assert sum(each.count for each in report.refused.values()) == 3
    assert {place for each in report.refused.values() for place in each.places} == {
        f"{root}/bad.txt",
        f"{root}/latin.txt",
        f"{root}/rows.jsonl:2",
    }


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", {"one.txt": "1", "sub/two.txt": "2"})
    (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
    (root / "sub" / "self").symlink_to("self")
    elsewhere = folder_of(tmp_path / "b", {"three.txt": "3"})
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    assert sorted(each.text or "" for each in load_examples(root)) == ["1", "2", "3"]


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="not a regular file"):
        load_files([tmp_path / "pipe.txt"])
    with pytest.raises(DataError, match="no data files"):
        load_files([tmp_path])


def test_archives_that_do_harm(tmp_path: Path) -> None:
    bomb = zip_of(tmp_path / "bomb.zip", {"a.txt": b"0" * (80 * 2**20)})
    with pytest.raises(DataError, match="expands to too much") as caught:
        load_examples(bomb)
    assert caught.value.path == f"{bomb}/a.txt"
    lying = tmp_path / "lying.zip"
    content = bytearray(bomb.read_bytes())
    size = (80 * 2**20).to_bytes(4, "little")
    lying.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(DataError):
        load_examples(lying)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(bomb.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged or incomplete"):
        load_examples(cut)
    damaged = zip_of(tmp_path / "damaged.zip", {"a.txt": "some text " * 500})
    content = bytearray(damaged.read_bytes())
    content[45:60] = b"\xff" * 15
    damaged.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_examples(damaged)
    assert str(damaged) in str(caught.value.path)
    with pytest.raises(DataError, match="no data files"):
        load_examples(zip_of(tmp_path / "none.zip", {"a.png": b"x"}))
    climbing = zip_of(tmp_path / "climb.zip", {"../../up.txt": "stays inside"})
    assert load_examples(climbing)[0].source == f"{climbing}/up.txt"
    assert not (tmp_path.parent / "up.txt").exists()
    secret = tmp_path / "secret.zip"
    with zipfile.ZipFile(secret, "w") as archive:
        archive.writestr("a.txt", "x")
    marked = bytearray(secret.read_bytes())
    marked[6] |= 1
    marked[marked.index(b"PK\x01\x02") + 8] |= 1
    secret.write_bytes(marked)
    with pytest.raises(DataError, match="encrypted"):
        load_examples(secret)


def test_an_absurd_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zen_mlx.data.importers.lines.MOST_ROW_CHARS", 1000)
    path = jsonl(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y" * 2000})
    with pytest.raises(DataError, match="too long") as caught:
        load_examples(path)
    assert caught.value.path == f"{path}:2"


def test_a_damaged_slack_export_names_its_file(tmp_path: Path) -> None:
    files = slack_files({"c": {"2023-11-14": []}})
    files["c/2023-11-15.json"] = "{"
    root = folder_of(tmp_path / "s", files)
    with pytest.raises(DataError, match="not valid JSON") as caught:
        load_examples(root)
    assert caught.value.path == str(root / "c" / "2023-11-15.json")


def test_conversations_stay_on_one_side_and_plain_rows_split_as_ever() -> None:
    plain = [Example(f"f:{i}", text=f"row {i}") for i in range(200)]
    parts = [
        Example(f"c:{i}", messages=(("user", f"{i}"), ("assistant", f"{i % 3}")), conversation=f"chat {i // 5}")
        for i in range(500)
    ]
    train, held = split_held_out([*plain, *parts])
    assert len({each.conversation for each in held} - {None}) + sum(each.conversation is None for each in held) == 15
    assert not {each.conversation for each in train} & ({each.conversation for each in held} - {None})
    assert not {each.digest() for each in train} & {each.digest() for each in held}
    assert split_held_out(parts[:195]) == (parts[:195], []), "39 conversations"
