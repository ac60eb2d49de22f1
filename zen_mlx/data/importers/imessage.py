"""A copy of Messages' chat.db, opened read-only and immutable: nothing is written beside it.

Which messages are yours is in the file. A message whose `text` is empty has it in `attributedBody`; of an edited message
the last version is read, from `message_summary_info`. Left out: reactions, group events, what was unsent, attachments
without words.
"""

from __future__ import annotations

import plistlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from ...errors import DataError
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry
from .tally import Tally
from .typedstream import archived_string

MAGIC = b"SQLite format 3\x00"
_TABLES = ("message", "chat_message_join", "handle")
_EPOCH_S = 978307200  # 2001-01-01
_ATTACHMENT = "\ufffc"
_DAMAGED = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    plistlib.InvalidFileException,
)
_MOST_VALUE_BYTES = 64 * 2**20


def is_imessage(path: Path) -> bool:
    """True when the SQLite file at `path` has the tables of chat.db."""
    try:
        with closing(_connect(path)) as database:
            return set(_TABLES) <= _tables(database)
    except sqlite3.Error:
        return False


def read_imessage(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The conversations of every chat."""
    if entry.path is None:
        raise DataError("a database cannot be read inside an archive", path=entry.label, hint="unpack it first")
    log = entry.path.with_name(entry.path.name + "-wal")
    if log.exists() and log.stat().st_size:
        tally.notes.append(f"{log}: not read, so the newest messages may be missing")
    try:
        with closing(_connect(entry.path)) as database:
            if not set(_TABLES) <= _tables(database):
                raise DataError("not a copy of chat.db", path=entry.label, expected=f"tables {', '.join(_TABLES)}")
            for chat in [
                row[0] for row in database.execute("SELECT DISTINCT chat_id FROM chat_message_join ORDER BY 1")
            ]:
                spoken = _messages(database, entry.label, chat, tally)
                for example in conversations(spoken, f"{entry.label}:chat {chat}", tally):
                    yield "iMessage", example
    except sqlite3.Error as error:
        raise DataError("the database is damaged", path=entry.label, found=type(error).__name__) from None


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
    database.text_factory = lambda value: value.decode("utf-8", "replace")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_VALUE_BYTES)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


def _tables(database: sqlite3.Connection) -> set[str]:
    """Names of the real tables: a view could run anything."""
    return {
        row[0]
        for row in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'create virtual%'"
        )
    }


def _messages(database: sqlite3.Connection, label: str, chat: int, tally: Tally) -> Iterator[Message]:
    have = {row[1] for row in database.execute("PRAGMA table_info(message)")}
    wanted = ("attributedBody", "item_type", "associated_message_type", "date_retracted", "message_summary_info")
    extra = ", ".join(f"m.{name}" if name in have else "NULL" for name in wanted)
    rows = database.execute(
        f"SELECT m.ROWID, m.text, m.date, m.is_from_me, h.id, {extra} FROM chat_message_join AS j "
        "JOIN message AS m ON m.ROWID = j.message_id LEFT JOIN handle AS h ON h.ROWID = m.handle_id "
        "WHERE j.chat_id = ? ORDER BY m.date, m.ROWID",
        (chat,),
    )
    for number, text, date, mine, handle, body, item_type, reaction, unsent, summary in rows:
        source = f"{label}:message {number}"
        if item_type or (reaction or 0) >= 1000:
            tally.skip("a reaction or a group event", source)
            continue
        if unsent:
            tally.skip("a deleted message or a call", source)
            continue
        edited = last_version(summary)
        if edited:
            text = edited
        elif not isinstance(text, str) or not text.strip():
            text = ""
            if isinstance(body, bytes):
                try:
                    text = archived_string(body)
                except DataError as error:
                    tally.refuse(DataError(error.message, path=source, field="attributedBody"))
                    continue
        text = text.replace(_ATTACHMENT, "").strip()
        if not text:
            tally.skip("media without words", source)
            continue
        yield Message("me" if mine else str(handle or "unknown"), text, _time(date), source, bool(mine))


def last_version(summary: object) -> str:
    """The text of an edited message of one part as it stands last; "" for any other message.

    `message_summary_info` is a property list: `ec` has, for each part that was edited, its versions, the last one as the
    last, each with a typedstream in `t`; `otr` has all parts (docs.rs/imessage-database message_types/edited.rs).
    """
    if not isinstance(summary, bytes) or not summary.startswith(b"bplist"):
        return ""
    try:
        facts = plistlib.loads(summary)
        versions = [part for part in facts["ec"].values() if part] if len(facts.get("otr", "x")) == 1 else []
        return archived_string(versions[0][-1]["t"]) if len(versions) == 1 else ""
    except (DataError, *_DAMAGED):
        return ""


def _time(date: object) -> float | None:
    """Seconds since 1970 of a date in seconds (before 2017) or nanoseconds since 2001."""
    if not isinstance(date, (int, float)) or not date:
        return None
    return (date / 1e9 if abs(date) > 1e11 else date) + _EPOCH_S
