"""Exports of chat programs that are not read, known by their fields, so that they are refused by name.

The fields are those of github.com/mlomb/chat-analytics pipeline/parse/parsers (Messenger.d.ts, Discord.d.ts), of Discord's
own package (ID, Timestamp, Contents), of Google Takeout (messages.json) and of Signal Desktop's rows (conversationId).
"""

from __future__ import annotations

import re

from ...errors import DataError
from .entries import Entry

_HEAD_BYTES = 65536
_KEY = re.compile(rb'"(\w{1,40})"\s{0,8}:')
_FIELDS: tuple[tuple[str, set[bytes]], ...] = (
    ("Messenger or Instagram", {b"sender_name", b"timestamp_ms"}),
    ("Messenger", {b"senderName", b"threadName"}),
    ("Discord", {b"guild", b"channel", b"messages"}),
    ("Discord", {b"ID", b"Timestamp", b"Contents"}),
    ("Google Chat", {b"creator", b"created_date", b"messages"}),
    ("Signal", {b"conversationId", b"sent_at"}),
    ("Signal", {b"chatItem", b"chatId"}),
)
_SLACK_DAY = {b"type", b"ts", b"user"}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_TABLE = b"ID,Timestamp,Contents"
_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?={20,}\r?\nGuild: ")  # DiscordChatExporter's plain text


def refuse_named(entry: Entry) -> None:
    """Raise `DataError` when the file is the export of a program whose chats are not read."""
    head = entry.head(_HEAD_BYTES)
    name = _program(head, entry.suffix)
    if name:
        raise DataError(
            f"this is an export of {name}, which is not read",
            path=entry.label,
            expected="WhatsApp, Telegram, Slack, iMessage or mail",
            hint="make rows of it: docs/data.md has their fields; or leave it out",
        )
    if entry.suffix == ".json" and _DAY.fullmatch(entry.name) and set(_KEY.findall(head)) >= _SLACK_DAY:
        raise DataError(
            "this is one day of a Slack export",
            path=entry.label,
            expected="the whole export, with channels.json",
            hint="give the folder or archive that the folder of the channel lies in",
        )


def _program(head: bytes, suffix: str) -> str | None:
    if suffix in (".json", ".jsonl", ".ndjson"):
        keys = set(_KEY.findall(head))
        return next((name for name, fields in _FIELDS if fields <= keys), None)
    if suffix == ".csv" and head.removeprefix(b"\xef\xbb\xbf").startswith(_TABLE):
        return "Discord"
    return "Discord" if suffix == ".txt" and _TEXT.match(head) else None
