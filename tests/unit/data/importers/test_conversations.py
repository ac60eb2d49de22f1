"""Exported chats and mail: every origin's file, written by an independent writer, becomes the conversations that were had."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from export_files import (
    attributed_body,
    chat_db,
    folder_of,
    mail,
    mbox,
    slack_files,
    telegram_chat,
    telegram_message,
    zip_of,
)

from zen_mlx.data.examples import ImportOptions, ImportReport, import_examples, load_examples
from zen_mlx.data.importers.mail_quotes import own_words
from zen_mlx.data.importers.typedstream import archived_string
from zen_mlx.errors import DataError

NOON = 1_700_000_000


def read(path: Path, me: Any = "Kim", **options: Any) -> tuple[list[list[tuple[str, str]]], ImportReport]:
    """([[(role letter, text), ...] of every example], the report)."""
    examples, report = import_examples(path, ImportOptions.of(me, **options))
    return [[(role[0], text) for role, text in example.messages or ()] for example in examples], report


def skipped(report: ImportReport) -> int:
    return sum(each.count for each in report.skipped.values())


# WhatsApp ----------------------------------------------------------------------------------------------------------

WHATSAPP = {
    "iphone": "[31/12/23, 22:59:58] Anna: hi\n[31/12/23, 23:00:01] Kim: yes\nand no\n",
    "iphone us": "[12/31/23, 10:59:58\u202fPM] Anna: hi\n[12/31/23, 11:00:01\u202fPM] Kim: yes\nand no\n",
    "iphone de": "[31.12.23, 22:59:58] Anna: hi\n[31.12.23, 23:00:01] Kim: yes\nand no\n",
    "iphone iso": "\u200e[2023-12-31, 22:59:58] Anna: hi\n[2023-12-31, 23:00:01] Kim: yes\nand no\n",
    "android": "31/12/2023, 22:59 - Anna: hi\n31/12/2023, 23:00 - Kim: yes\nand no\n",
    "android us": "12/31/23, 10:59 PM - Anna: hi\n12/31/23, 11:00 PM - Kim: yes\nand no\n",
    "android de": "31.12.23, 22:59 - Anna: hi\n31.12.23, 23:00 - Kim: yes\nand no\n",
    "android nl": "31-12-2023 22:59 - Anna: hi\n31-12-2023 23:00 - Kim: yes\nand no\n",
    "android es": "31/12/23, 10:59 p.\u00a0m. - Anna: hi\n31/12/23, 11:00 p.\u00a0m. - Kim: yes\nand no\n",
    "android fr": "31/12/2023 à 22:59 - Anna: hi\n31/12/2023 à 23:00 - Kim: yes\nand no\n",
    "android fi": "31.12.2023 klo 22.59 - Anna: hi\n31.12.2023 klo 23.00 - Kim: yes\nand no\n",
    "android zh": "2023/12/31 下午10:59 - Anna: hi\n2023/12/31 下午11:00 - Kim: yes\nand no\n",
    "windows lines": "31/12/2023, 22:59 - Anna: hi\r\n31/12/2023, 23:00 - Kim: yes\r\nand no\r\n",
}


@pytest.mark.parametrize("name", WHATSAPP)
def test_whatsapp_in_every_date_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / "WhatsApp Chat with Anna.txt"
    path.write_bytes(WHATSAPP[name].encode())
    found, report = read(path)
    assert found == [[("u", "hi"), ("a", "yes\nand no")]]
    assert report.files == {str(path): {"WhatsApp": 1}}
    assert import_examples(path, ImportOptions.of("kim"))[0][0].source == f"{path}:1"


def test_whatsapp_leaves_out_what_nobody_wrote(tmp_path: Path) -> None:
    path = tmp_path / "_chat.txt"
    path.write_text(
        "[31/12/23, 22:00:00] Anna: \u200eMessages and calls are end-to-end encrypted.\n"
        "[31/12/23, 22:00:01] \u200eAnna created this group\n"
        "[31/12/23, 22:00:02] Anna: look: a sunset\n"
        "\u200e[31/12/23, 22:00:03] Anna: \u200eimage omitted\n"
        "[31/12/23, 22:00:04] Anna: <Media omitted>\n"
        "[31/12/23, 22:00:05] Anna: IMG-20231231-WA0001.jpg (file attached)\nthe caption\n"
        "[31/12/23, 22:00:06] Kim: This message was deleted\n"
        "[31/12/23, 22:00:07] Kim: nice \u200e<This message was edited>\n"
        "[31/12/23, 22:00:08] Kim: 12:30 then?\n"
    )
    found, report = read(path, me="KIM")
    assert found == [[("u", "look: a sunset\nthe caption"), ("a", "nice\n12:30 then?")]]
    assert skipped(report) == 5


def test_day_and_month_are_told_apart_by_all_dates(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    # Only one of these dates says which is the month, and it is the last.
    path.write_text(
        "1/2/24, 10:00 - Anna: one\n1/2/24, 10:01 - Kim: two\n1/3/24, 10:00 - Anna: three\n1/3/24, 10:01 - Kim: four\n"
        "1/13/24, 10:00 - Anna: five\n1/13/24, 10:01 - Kim: six\n"
    )
    assert len(read(path)[0]) == 3
    path.write_text("1/2/24, 10:00 - Anna: one\n31/2/24, 10:01 - Kim: two\n")
    with pytest.raises(DataError, match=r"does not exist|no sender"):
        import_examples(path, ImportOptions.of("Kim"))


def test_a_pause_ends_a_conversation_and_groups_name_their_speakers(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(
        "31/12/23, 08:00 - Kim: morning\n"
        "31/12/23, 08:01 - Anna: who brings food?\n31/12/23, 08:02 - Anna: and wine\n31/12/23, 08:03 - Bob: me\n"
        "31/12/23, 08:04 - Kim: food\n31/12/23, 08:05 - Kim: no wine\n31/12/23, 08:06 - Bob: ok\n"
        "31/12/23, 20:00 - Anna: here\n31/12/23, 20:01 - Kim: coming\n"
        "01/01/24, 20:00 - Anna: anyone\n"
    )
    found, report = read(path)
    assert found == [
        [("u", "Anna: who brings food?\nand wine\nBob: me"), ("a", "food\nno wine")],
        [("u", "here"), ("a", "coming")],
    ]
    assert set(report.skipped) == {"said before anyone else spoke", "a conversation in which you said nothing"}
    assert report.conversations == 2


def test_a_text_that_begins_with_a_date_is_no_chat(tmp_path: Path) -> None:
    path = tmp_path / "diary.txt"
    path.write_text("31/12/23, 08:00 - a cold day\nNothing happened.\n")
    assert load_examples(path)[0].text == path.read_text()


def test_without_me_the_senders_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(WHATSAPP["android"])
    for me, words in ((None, "which sender is you"), ("Zoe", "no sender has this name")):
        with pytest.raises(DataError, match=words) as caught:
            import_examples(path, ImportOptions.of(me))
        assert caught.value.field == "me"
        assert "Anna, Kim" in str(caught.value)
    with pytest.raises(DataError, match="which sender is you"):
        load_examples(path)
    assert load_examples(path, me="~\u202fkim")[0].messages == (("user", "hi"), ("assistant", "yes\nand no"))


def test_a_long_conversation_goes_on_in_the_next_row_on_the_same_side(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    lines = []
    for day in range(1, 29):
        for month in (1, 2):
            for turn in range(12):
                who = "Kim" if turn % 2 else "Anna"
                lines.append(
                    (month, day, f"{day:02}/{month:02}/24, 10:{turn:02} - {who}: {day} {month} {turn} " + "x" * 90)
                )
    path.write_text("\n".join(text for _, _, text in sorted(lines)))
    from zen_mlx.data.examples import split_held_out

    examples, report = import_examples(path, ImportOptions.of("Kim", row_chars=400))
    assert report.conversations == 56
    assert len(examples) == 56 * 3
    assert all(len(example.messages or ()) == 4 for example in examples)
    train, held = split_held_out(examples)
    assert len(held) == 2 * 3
    assert not {each.conversation for each in train} & {each.conversation for each in held}


# Telegram ----------------------------------------------------------------------------------------------------------


def test_telegram_one_chat_and_all(tmp_path: Path) -> None:
    parts = ["see ", {"type": "link", "text": "https://x.org"}, " ok"]
    messages = [
        {"id": 1, "type": "service", "date": "2023-11-14T22:13:20", "actor": "Anna", "action": "phone_call"},
        telegram_message(2, "Anna", NOON, parts),
        telegram_message(3, "Anna", NOON + 5, "", photo="photos/1.jpg"),
        telegram_message(4, "Kim", NOON + 9, "yes", reply_to_message_id=2),
        telegram_message(5, "Kim", NOON + 10, "someone else's words", forwarded_from="News"),
    ]
    one = tmp_path / "result.json"
    one.write_text(json.dumps(telegram_chat(7, *messages), indent=1, ensure_ascii=False))
    expected = [("u", "see https://x.org ok"), ("a", "yes")]
    found, report = read(one)
    assert found == [expected]
    assert skipped(report) == 3
    assert report.files == {str(one): {"Telegram": 1}}
    everything = {
        "about": "Here is your data",
        "personal_information": {"user_id": sum(map(ord, "Kim")), "first_name": "Kim"},
        "chats": {
            "about": "",
            "list": [
                telegram_chat(7, *messages),
                telegram_chat(8, telegram_message(1, "Bob", NOON, "lunch?"), telegram_message(2, "Kim", NOON, "sure")),
            ],
        },
    }
    whole = tmp_path / "all" / "result.json"
    whole.parent.mkdir()
    whole.write_text(json.dumps(everything))
    assert read(whole, me=None)[0] == [expected, [("u", "lunch?"), ("a", "sure")]]
    assert import_examples(whole)[0][1].source == f"{whole}:chat 2 message 1"


def test_telegram_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(telegram_chat(7, telegram_message(2, "Anna", NOON, "hi")))[:-20])
    with pytest.raises(DataError, match="not valid JSON") as caught:
        import_examples(path, ImportOptions.of("Kim"))
    assert caught.value.path == str(path)


# Slack -------------------------------------------------------------------------------------------------------------


def slack_export() -> dict[str, str]:
    day1 = [
        {"type": "message", "subtype": "channel_join", "user": "U2", "text": "<@U2> joined", "ts": "1700000000.0001"},
        {
            "type": "message",
            "user": "U1",
            "text": "<@U2> is &lt;b&gt; ok? <https://x.org|docs>",
            "ts": "1700000001.0001",
        },
        {"type": "message", "user": "U1", "text": "root", "ts": "1700000002.0001", "thread_ts": "1700000002.0001"},
        {"type": "message", "user": "U2", "text": "yes, see <#C9|general>", "ts": "1700000003.0001"},
        {"type": "message", "bot_id": "B1", "text": "build failed", "ts": "1700000004.0001"},
    ]
    day2 = [{"type": "message", "user": "U2", "text": "late", "ts": "1700090000.0001", "thread_ts": "1700000002.0001"}]
    return slack_files({"random": {"2023-11-14": day1, "2023-11-15": day2}})


@pytest.mark.parametrize("how", ["folder", "zip", "zip in a folder", "nested"])
def test_slack_folder_and_zip(tmp_path: Path, how: str) -> None:
    if how == "folder":
        path = folder_of(tmp_path / "export", slack_export())
    elif how == "nested":
        folder_of(tmp_path / "top" / "export", slack_export())
        path = tmp_path / "top"
    else:
        path = zip_of(tmp_path / "Slack export.zip", dict(slack_export()), "acme/" if "in a" in how else "")
    expected = [
        [("u", "@Kim Doe is <b> ok? docs"), ("a", "yes, see #general")],
        [("u", "root"), ("a", "late")],
    ]
    for me in ("Kim Doe", "kim", "kim@x.org", "U2"):
        found, report = read(path, me=me)
        assert found == expected
        assert skipped(report) == 2
    assert list(report.files.values()) == [{"Slack": 2}]


# iMessage ----------------------------------------------------------------------------------------------------------

# Written by Messages itself: https://docs.rs/imessage-database describes the layout.
REAL_BODY = bytes.fromhex(
    "040b73747265616d747970656481e803840140848484124e5341747472696275746564537472696e67008484084e534f626a6563740085928484"
    "84084e53537472696e67019484012b0b68656c6c6f2068656c6c6f8684026949010b928484840c4e5344696374696f6e617279009484016901"
)


def test_the_string_of_a_typedstream() -> None:
    assert archived_string(REAL_BODY) == "hello hello"
    for text in ("hi", "naïve ☕", "x" * 127, "y" * 128, "z" * 40000, "w" * 70000, "", "+@"):
        for mutable in (False, True):
            assert archived_string(attributed_body(text, mutable)) == text


@pytest.mark.parametrize("cut", [0, 5, 13, 16, 20, 60, 78, 80])
def test_a_damaged_typedstream(cut: int) -> None:
    whole = attributed_body("some text")
    with pytest.raises(DataError):
        archived_string(whole[:cut])
    for at in range(len(whole)):
        for value in (0x00, 0x84, 0x85, 0x92, 0xFF):
            broken = bytearray(whole)
            broken[at] = value
            try:
                archived_string(bytes(broken))
            except DataError:
                continue


def test_imessage(tmp_path: Path) -> None:
    path = chat_db(
        tmp_path / "chat.db",
        {
            "+4917112345678": [
                {"text": "dinner?", "at": NOON},
                {"body": attributed_body("at eight \ufffc"), "at": NOON + 1},
                {"body": attributed_body("Perfect — see you"), "mine": True, "at": NOON + 2},
                {"text": "Loved “Perfect”", "reaction": 2000, "at": NOON + 3},
                {"text": "\ufffc", "at": NOON + 4, "mine": True},
                {"text": "oops", "retracted": 5, "at": NOON + 5, "mine": True},
                {"item_type": 2, "at": NOON + 6},
                {"text": "next day", "at": NOON + 90_000},
                {"text": "fine", "mine": True, "at": NOON + 90_001},
            ],
            "group": [
                {"text": "a", "from": "ann@x.org", "at": NOON},
                {"text": "b", "from": "bob@x.org", "at": NOON},
                {"body": b"\x04\x0bstreamtyped", "from": "bob@x.org", "at": NOON},
                {"text": "c", "mine": True, "at": NOON},
            ],
        },
    )
    before = {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    os.chmod(path, 0o400)
    found, report = read(path, me=None)
    assert found == [
        [("u", "dinner?\nat eight"), ("a", "Perfect — see you")],
        [("u", "next day"), ("a", "fine")],
        [("u", "[e-mail address]: a\n[e-mail address]: b"), ("a", "c")],
    ]
    assert skipped(report) == 4
    assert report.refused["the typedstream archive ends early (attributedBody)"].places == [f"{path}:message 12"]
    assert {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()} == before, (
        "nothing is written beside it"
    )
    with pytest.raises(DataError, match="ends early"):
        load_examples(path)


def test_imessage_that_is_none(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    database = sqlite3.connect(other)
    database.executescript("CREATE TABLE t (x); CREATE VIEW message AS SELECT 1; CREATE VIEW handle AS SELECT 1;")
    database.execute("CREATE VIEW chat_message_join AS SELECT 1")
    database.close()
    with pytest.raises(DataError, match="unknown kind"):
        load_examples(other)
    good = chat_db(
        tmp_path / "chat.db", {"a": [{"text": "x" * 5000, "at": NOON, "mine": n % 2 == 1} for n in range(40)]}
    )
    content = bytearray(good.read_bytes())
    content[8192:] = b"\xee" * (len(content) - 8192)
    good.write_bytes(content)
    with pytest.raises(DataError):
        load_examples(good)
    (tmp_path / "chat.db-wal").write_bytes(b"x")


# Mail --------------------------------------------------------------------------------------------------------------


def mails() -> list[Any]:
    quoted = (
        "Tuesday works.\n\n-- \nKim Doe\nAcme\n\nOn Mon, 13 Nov 2023 at 10:00, Anna <anna@x.org> wrote:\n\n> Lunch?\n"
    )
    html = "<p>Here&nbsp;it is.</p><style>p{}</style><blockquote>old</blockquote>"
    return [
        mail("Anna <anna@x.org>", "Lunch", "Lunch on Tuesday?\n\nAnna", NOON, "1@x"),
        mail("Kim Doe <kim@x.org>", "Re: Lunch", quoted, NOON + 60, "2@x", "1@x"),
        mail("Kim Doe <kim@x.org>", "Re: Lunch", quoted, NOON + 60, "2@x", "1@x"),
        mail("Anna <anna@x.org>", "AW: Lunch", "Great!", NOON + 9e6, "3@x", "2@x"),
        mail("KIM@x.org", "Report", "", NOON, "4@x", html=html),
        mail("News <no-reply@x.org>", "Sale", "buy", NOON, "5@x"),
    ]


@pytest.mark.parametrize("name", ["sent.mbox", "Inbox", "All.mbox/mbox"])
def test_mbox(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = mbox(tmp_path / name, *mails())
    if name.endswith("/mbox"):
        path = path.parent
    found, report = read(path, me=["Kim Doe", "kim@x.org"])
    assert found == [
        [("u", "Subject: Lunch\nLunch on Tuesday?\n\nAnna"), ("a", "Tuesday works.")],
        [("u", "Subject: Report"), ("a", "Here it is.")],
    ]
    assert report.skipped["a copy of the same mail"].count == 1
    with pytest.raises(DataError, match="which sender") as caught:
        import_examples(path)
    assert "Kim Doe" in str(caught.value)


def test_broken_mails_are_counted(tmp_path: Path) -> None:
    path = mbox(tmp_path / "a.mbox", *mails())
    inner = b"--a\nContent-Type: multipart/mixed; boundary=a\n\n"
    broken = (
        b"From: =?bad?x?=\nContent-Type: text/plain; charset=nope\n\n\xff\xfe hi\n",
        b"Content-Type: multipart/mixed; boundary=a\nFrom: q@x.org\n\n--a\n\n--a--\n",
        b"From: z@x.org\nDate: never\nMessage-ID: <" + b"a" * 9000 + b">\n\nwords\n",
        b"From: z@x.org\nContent-Type: multipart/mixed; boundary=a\n\n" + inner * 2000,
    )
    with path.open("ab") as handle:
        for each in broken:
            handle.write(b"\nFrom x Mon Nov 13 10:00:00 2023\n" + each)
    found, _ = read(path, me="Kim Doe")
    assert len(found) == 1


def test_a_thread_lies_in_two_mailboxes(tmp_path: Path) -> None:
    question, answer, *_ = mails()
    mbox(tmp_path / "Sent.mbox", answer)
    mbox(tmp_path / "Inbox.mbox", question)
    found, report = read(tmp_path, me="Kim Doe")
    assert found == [[("u", "Subject: Lunch\nLunch on Tuesday?\n\nAnna"), ("a", "Tuesday works.")]]
    assert report.files == {str(tmp_path / "Inbox.mbox"): {"mbox": 1}}


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Ja.\n\nAm 13.11.2023 um 10:00 schrieb Anna:\n> a\n> b", "Ja."),
        ("Oui\n\nLe lun. 13 nov. 2023 à 10:00, Anna <a@x.org>\na écrit :\n\n> a", "Oui"),
        ("Yes\n\n-----Original Message-----\nFrom: Anna\nold", "Yes"),
        ("Yes\n________________________________\nFrom: Anna", "Yes"),
        ("Yes\n\nFrom: Anna <a@x.org>\nSent: Monday\nTo: Kim\nSubject: x\n\nold", "Yes"),
        ("> first\nanswer one\n> second\nanswer two", "answer one\nanswer two"),
        ("My list:\n\n> a quote\nand more", "My list:\n\nand more"),
        ("From: here on it is mine", "From: here on it is mine"),
    ],
)
def test_own_words(text: str, own: str) -> None:
    assert own_words(text) == own


def test_hostile_mail_takes_no_time() -> None:
    for text in ("On " * 30_000, "> " * 50_000, "From: a\n" * 20_000, "-" * 200_000, "a:\n" * 50_000, "_ " * 80_000):
        own_words(text)
