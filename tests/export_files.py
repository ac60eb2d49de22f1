"""Writers of the files that other programs export, after each one's documented layout; they share no code with the readers."""

from __future__ import annotations

import json
import mailbox
import sqlite3
import struct
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

APPLE_EPOCH_S = 978307200


def jsonl(path: Path, *rows: Any) -> Path:
    """One row a line; a string is written as it is."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


class Archiver:
    """What NSArchiver writes: shared strings and objects are numbered from 0x92 in order of appearance."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x04\x0bstreamtyped\x81\xe8\x03")
        self.strings: list[str] = []
        self.objects: list[str] = []

    def unsigned(self, value: int) -> None:
        if value < 0x80:
            self.out.append(value)
        elif value < 0x10000:
            self.out += b"\x81" + struct.pack("<H", value)
        else:
            self.out += b"\x82" + struct.pack("<I", value)

    def shared(self, text: str) -> None:
        if text in self.strings:
            self.out.append(0x92 + self.strings.index(text))
            return
        self.strings.append(text)
        self.out.append(0x84)
        self.unsigned(len(text))
        self.out += text.encode()

    def begin(self, name: str, *chain: tuple[str, int]) -> None:
        """A new object of the class at the head of `chain`, which goes up to NSObject."""
        self.out.append(0x84)
        self.objects.append(name)
        for each, version in chain:
            if each in self.objects:
                self.out.append(0x92 + self.objects.index(each))
                return
            self.objects.append(each)
            self.out.append(0x84)
            self.shared(each)
            self.unsigned(version)
        self.out.append(0x85)

    def end(self) -> None:
        self.out.append(0x86)


def attributed_body(text: str, mutable: bool = False) -> bytes:
    """An NSAttributedString of one run with Messages' attribute, as in the column attributedBody."""
    writer = Archiver()
    top, inner = ("NSMutableAttributedString", "NSMutableString") if mutable else ("NSAttributedString", "NSString")
    writer.shared("@")
    over = [(top, 0), ("NSAttributedString", 0)] if mutable else [(top, 0)]
    writer.begin("text", *over, ("NSObject", 0))
    writer.shared("@")
    writer.begin("string", *([(inner, 1), ("NSString", 1)] if mutable else [(inner, 1)]), ("NSObject", 0))
    writer.shared("+")
    content = text.encode()
    writer.unsigned(len(content))
    writer.out += content
    writer.end()
    writer.shared("iI")
    writer.out.append(1)
    writer.unsigned(len(text))
    writer.shared("@")
    writer.begin("attributes", ("NSDictionary", 0), ("NSObject", 0))
    writer.shared("i")
    writer.out.append(0)
    writer.end()
    writer.end()
    return bytes(writer.out)


def chat_db(path: Path, chats: dict[str, Sequence[dict[str, Any]]]) -> Path:
    """A chat.db with the tables and columns of Messages; a message has text, body, mine, at and more of its columns."""
    database = sqlite3.connect(path)
    database.executescript("""
        CREATE TABLE message (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, text TEXT,
            handle_id INTEGER DEFAULT 0, attributedBody BLOB, service TEXT, date INTEGER, is_from_me INTEGER DEFAULT 0,
            item_type INTEGER DEFAULT 0, cache_has_attachments INTEGER DEFAULT 0,
            associated_message_guid TEXT, associated_message_type INTEGER DEFAULT 0, date_retracted INTEGER DEFAULT 0);
        CREATE TABLE handle (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, service TEXT NOT NULL);
        CREATE TABLE chat (ROWID INTEGER PRIMARY KEY AUTOINCREMENT, guid TEXT UNIQUE NOT NULL, chat_identifier TEXT);
        CREATE TABLE chat_message_join (chat_id INTEGER, message_id INTEGER, message_date INTEGER DEFAULT 0);
    """)
    handles: dict[str, int] = {}
    number = 0
    for chat, (name, messages) in enumerate(chats.items(), start=1):
        database.execute("INSERT INTO chat VALUES (?, ?, ?)", (chat, f"iMessage;-;{name}", name))
        for message in messages:
            number += 1
            who = message.get("from", name)
            if who not in handles:
                handles[who] = len(handles) + 1
                database.execute("INSERT INTO handle VALUES (?, ?, 'iMessage')", (handles[who], who))
            database.execute(
                "INSERT INTO message (ROWID, guid, text, handle_id, attributedBody, date, is_from_me, item_type, "
                "associated_message_type, date_retracted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    f"guid-{number}",
                    message.get("text"),
                    0 if message.get("mine") else handles[who],
                    message.get("body"),
                    int((message["at"] - APPLE_EPOCH_S) * 1e9),
                    int(message.get("mine", False)),
                    message.get("item_type", 0),
                    message.get("reaction", 0),
                    message.get("retracted", 0),
                ),
            )
            database.execute("INSERT INTO chat_message_join VALUES (?, ?, 0)", (chat, number))
    database.commit()
    database.close()
    return path


def mail(
    sender: str, subject: str, text: str, at: float, identity: str, reply_to: str | None = None, html: str | None = None
) -> EmailMessage:
    """One mail."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = "someone@example.org"
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
    message["Message-ID"] = f"<{identity}>"
    if reply_to:
        message["In-Reply-To"] = f"<{reply_to}>"
        message["References"] = f"<{reply_to}>"
    if html is None:
        message.set_content(text)
    elif text:
        message.set_content(text)
        message.add_alternative(html, subtype="html")
    else:
        message.set_content(html, subtype="html")
    return message


def mbox(path: Path, *mails: EmailMessage) -> Path:
    """An mbox as the standard library writes it."""
    box = mailbox.mbox(path)
    for each in mails:
        box.add(each)
    box.flush()
    box.close()
    return path


def telegram_chat(identity: int, *messages: dict[str, Any], name: str = "Anna") -> dict[str, Any]:
    """One chat of a result.json."""
    return {"name": name, "type": "personal_chat", "id": identity, "messages": list(messages)}


def telegram_message(identity: int, who: str, at: int, text: Any, **more: Any) -> dict[str, Any]:
    """One message as Telegram Desktop writes it."""
    number = sum(map(ord, who))
    date = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "id": identity,
        "type": "message",
        "date": date,
        "date_unixtime": str(at),
        "from": who,
        "from_id": f"user{number}",
        "text": text,
        "text_entities": [],
        **more,
    }


def slack_files(channels: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, str]:
    """Name -> content of a Slack export; channels: name -> day -> messages."""
    users = [
        {"id": "U1", "name": "anna", "real_name": "Anna Ames", "profile": {"display_name": "Anna", "email": "a@x.org"}},
        {"id": "U2", "name": "kim", "real_name": "Kim Doe", "profile": {"display_name": "", "email": "kim@x.org"}},
    ]
    files = {
        "users.json": json.dumps(users),
        "channels.json": json.dumps([{"id": f"C{i}", "name": name} for i, name in enumerate(channels)]),
        "integration_logs.json": "[]",
    }
    for name, days in channels.items():
        for day, messages in days.items():
            files[f"{name}/{day}.json"] = json.dumps(messages)
    return files


def folder_of(path: Path, files: dict[str, str]) -> Path:
    """The files below folder `path`."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
    return path


def zip_of(path: Path, files: dict[str, str | bytes], under: str = "") -> Path:
    """The files in a deflated archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(under + name, content)
    return path
