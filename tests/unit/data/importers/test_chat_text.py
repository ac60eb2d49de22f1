"""Chats that are not read: refused by name, never learned as texts; and what the importers of chats know of their files."""

from __future__ import annotations

import json
import plistlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from export_files import attributed_body, chat_db, folder_of, slack_files, telegram_chat, telegram_message, zip_of

from zen_mlx.data.examples import ImportOptions, import_examples
from zen_mlx.data.importers.imessage import last_version
from zen_mlx.errors import DataError

NOON = 1_700_000_000
CHAT = "31/12/23, 22:01 - Anna: hi\n31/12/23, 22:02 - Kim: yes\n"


def turns(path: Path, me: str | None = "Kim") -> list[list[str]]:
    return [[text for _, text in example.messages or ()] for example in import_examples(path, ImportOptions.of(me))[0]]


@pytest.mark.parametrize(
    "text",
    [
        "[10:01] <anna> hi\n[10:02] <kim> yes\n",
        "2024-05-06 15:05 Anna: hi\n2024-05-06 15:06 Kim: yes\nand more\n",
        "6 May 2024, 15:05 - Anna: hi\n6 May 2024, 15:06 - Kim: yes\n",
        "Fri, 6/5/24, 15:05 - Anna: hi\nFri, 6/5/24, 15:06 - Kim: yes\n",
        "6/5/24, 3:05 qx - Anna: hi\n6/5/24, 3:06 qx - Kim: yes\n",
        "15:05 +49 170 1234567: hi\n15:06 Kim: yes\n",
        "12:01 A: x\n12:02 B: x\n12:03 A: x\n12:04 B: x\n" + "more of it\n" * 12,
    ],
)
def test_a_chat_of_an_unknown_form_is_no_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text)
    with pytest.raises(DataError, match="looks like a chat") as caught:
        import_examples(path)
    assert caught.value.hint is not None
    assert f"--as-text {path}" in caught.value.hint
    examples, report = import_examples(path, ImportOptions.of(as_text=[path]))
    assert examples[0].text is not None
    assert report.kinds == {str(path): "text"}


@pytest.mark.parametrize(
    "text",
    [
        "6 May 2024: went to the market\n7 May 2024: rain\n",
        "Dear diary\n\n6/5/24 was long.\n12:00 lunch\n",
        "Recipe: soup\nTime: 10:30\nNotes: salt\n",
        "12:01 A: one line of speech\nand a whole page\n" + "of text\n" * 10,
    ],
)
def test_notes_are_learned(tmp_path: Path, text: str) -> None:
    path = tmp_path / "note.txt"
    path.write_text(text)
    assert len(import_examples(path)[0]) == 1


def test_me_without_a_chat_names_what_the_files_were_taken_for(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.txt": "only a note", "b.jsonl": json.dumps({"text": "row"})})
    with pytest.raises(DataError, match="no sender") as caught:
        import_examples(tmp_path, ImportOptions.of("Kim"))
    assert caught.value.hint is not None
    assert f"{tmp_path / 'a.txt'}: text" in caught.value.hint
    assert f"{tmp_path / 'b.jsonl'}: rows" in caught.value.hint
    (tmp_path / "chat.txt").write_text(CHAT)
    assert len(import_examples(tmp_path, ImportOptions.of("Kim"))[0]) == 3


def test_as_text_names_a_file_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("note")
    with pytest.raises(DataError, match="no file of the data"):
        import_examples(path, ImportOptions.of(as_text=[tmp_path / "b.txt"]))


@pytest.mark.parametrize(
    ("name", "content", "program"),
    [
        (
            "message_1.json",
            {"participants": [], "messages": [{"sender_name": "A", "timestamp_ms": 1, "content": "x"}]},
            "Messenger",
        ),
        ("chat.json", {"guild": {}, "channel": {}, "messages": []}, "Discord"),
        ("messages.json", [{"ID": 1, "Timestamp": "t", "Contents": "x"}], "Discord"),
        ("messages.csv", "ID,Timestamp,Contents,Attachments\n1,t,x,\n", "Discord"),
        ("messages.json", {"messages": [{"creator": {}, "created_date": "d", "text": "x"}]}, "Google Chat"),
        ("signal.json", [{"conversationId": "c", "sent_at": 1, "body": "x"}], "Signal"),
        ("2023-11-14.json", [{"type": "message", "user": "U1", "text": "x", "ts": "1.0"}], "Slack"),
    ],
)
def test_other_programs_are_named(tmp_path: Path, name: str, content: Any, program: str) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=program):
        import_examples(path)


def slack_day(*more: dict[str, Any]) -> dict[str, str]:
    day = [{"type": "message", "user": "U1", "text": "root", "ts": "1700000002.0001"}, *more]
    return slack_files({"random": {"2023-11-14": day}})


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("users", [None, "org_users.json"])
def test_slack_without_users_json(tmp_path: Path, packed: bool, users: str | None) -> None:
    files = slack_day(
        {
            "type": "message",
            "user": "U9",
            "text": "mine",
            "ts": "1700000003.0001",
            "user_profile": {"display_name": "Kim"},
        }
    )
    listing = files.pop("users.json")
    if users:
        files[users] = listing
    path = zip_of(tmp_path / "x.zip", dict(files)) if packed else folder_of(tmp_path / "x", files)
    assert turns(path) == [["root", "mine"]]
    assert list(import_examples(path, ImportOptions.of("Kim"))[1].kinds.values()) == ["Slack"]


def test_slack_words_that_are_only_in_blocks(tmp_path: Path) -> None:
    inner = [{"type": "text", "text": "ask "}, {"type": "user", "user_id": "U1"}, {"type": "emoji", "name": "wave"}]
    blocks = [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": inner}]}]
    path = folder_of(
        tmp_path / "x",
        slack_day({"type": "message", "user": "U2", "text": "", "ts": "1700000003.0001", "blocks": blocks}),
    )
    assert turns(path, me="U2")[0][1].startswith("ask @")
    assert turns(path, me="U2")[0][1].endswith(":wave:")


def test_telegram_topics_are_conversations(tmp_path: Path) -> None:
    created = {"id": 10, "type": "service", "date": "2023-11-14T22:13:20", "actor": "Anna", "action": "topic_created"}
    path = tmp_path / "result.json"
    path.write_text(
        json.dumps(
            telegram_chat(
                7,
                created,
                telegram_message(11, "Anna", NOON, "in the topic", reply_to_message_id=10),
                telegram_message(12, "Anna", NOON + 1, "outside"),
                telegram_message(13, "Kim", NOON + 2, "mine in it", reply_to_message_id=11),
                telegram_message(14, "Kim", NOON + 3, "mine outside", reply_to_message_id=12),
            )
        )
    )
    assert turns(path) == [["outside", "mine outside"], ["in the topic", "mine in it"]]


def summary(*texts: str, parts: int = 1) -> bytes:
    versions = [{"d": 1.0, "t": attributed_body(text)} for text in texts]
    facts = {"ec": {"0": versions}, "otr": {str(part): {"lo": 0, "le": 1} for part in range(parts)}}
    return plistlib.dumps(facts, fmt=plistlib.FMT_BINARY)


def test_imessage_the_last_version_of_an_edited_message(tmp_path: Path) -> None:
    path = chat_db(
        tmp_path / "chat.db", {"+49": [{"text": "q", "at": NOON}, {"text": "frist", "mine": True, "at": NOON}]}
    )
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE message ADD COLUMN message_summary_info BLOB")
        database.execute("UPDATE message SET message_summary_info = ? WHERE is_from_me", (summary("frist", "first"),))
    database.close()
    assert turns(path, me=None) == [["q", "first"]]


def test_a_summary_that_says_nothing_of_an_edit() -> None:
    whole = summary("a", "b")
    assert last_version(whole) == "b"
    assert last_version(summary("a", "b", parts=2)) == ""
    assert last_version(None) == ""
    for at in range(0, len(whole), 3):
        last_version(whole[:at])
        last_version(whole[:at] + b"\xff" + whole[at + 1 :])
