"""A Slack export, folder or zip: users.json, and a folder per channel with a file per day.

An export of Enterprise Grid has org_users.json. Who is in no list, as a guest over Slack Connect, is named by the message
itself. A thread is a conversation of its own. Left out: joins, topics and other words of the app, bots' and files without
words.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...fsio import Json
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry, reading
from .rows import is_text, json_fault
from .slack_blocks import block_text
from .tally import Tally

_USERS = ("users.json", "org_users.json")
_LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json")
_SPOKEN = (None, "thread_broadcast", "me_message", "file_share", "file_comment")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_LINK = re.compile(r"<([^<>|]{1,2000})(?:\|([^<>]{0,2000}))?>")


def is_slack(names: Sequence[str], below: Iterable[str] = ()) -> bool:
    """True when these files at the root of a folder or archive, and those one folder below, are a Slack export's."""
    lists = any(name in names for name in _LISTS)
    users = any(name in names for name in _USERS)
    return (lists and users) or ((lists or users) and any(_DAY.fullmatch(name) for name in below))


def days_in(folder: Path) -> list[str]:
    """Names of the day files that lie in `folder`."""
    try:
        return [entry.name for entry in os.scandir(folder) if _DAY.fullmatch(entry.name)]
    except OSError:
        return []


def read_slack(entries: Sequence[Entry], label: str, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The conversations of every channel, group and direct message."""
    users: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        if entry.name in _USERS and len(entry.parts) == 1:
            users |= _users(entry)
    channels: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if len(entry.parts) == 2 and _DAY.fullmatch(entry.name):
            channels[entry.parts[0]].append(entry)
    for name, days in channels.items():
        threads: dict[str, list[Message]] = {}
        main: list[Message] = []
        for day in sorted(days, key=lambda entry: entry.name):
            with reading(day.label):
                for thread, message in _messages(day, users, tally):
                    (threads.setdefault(thread, []) if thread else main).append(message)
        for thread, messages in [("", main), *threads.items()]:
            messages.sort(key=lambda message: message.at or 0.0)
            pause = {"pause_s": float("inf")} if thread else {}
            for example in conversations(messages, f"{label}/{name}/{thread}", tally, **pause):
                yield "Slack", example


def _load(entry: Entry) -> Any:
    try:
        return json.loads(entry.whole().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", path=entry.label) from None
    except (ValueError, RecursionError) as error:
        raise DataError("not valid JSON", path=entry.label, found=json_fault(error)) from None


def _users(entry: Entry) -> dict[str, tuple[str, ...]]:
    """id -> names, the best one to show first."""
    users: dict[str, tuple[str, ...]] = {}
    listing = _load(entry)
    for user in listing if isinstance(listing, list) else []:
        if isinstance(user, dict) and isinstance(user.get("id"), str):
            users[user["id"]] = _names(user, user.get("profile"), user["id"])
    return users


def _names(user: Json, profile: Any, identity: str) -> tuple[str, ...]:
    """The names of one person, the best one to show first."""
    given = profile if isinstance(profile, dict) else {}
    names = (
        given.get("display_name"),
        given.get("real_name"),
        user.get("real_name"),
        user.get("name") or given.get("name"),
        given.get("email"),
        identity,
    )
    return tuple(dict.fromkeys(name for name in names if is_text(name) and name.strip()))


def _messages(entry: Entry, users: dict[str, tuple[str, ...]], tally: Tally) -> Iterator[tuple[str, Message]]:
    """(thread or "", message) of one day."""
    items = _load(entry)
    if not isinstance(items, list):
        tally.refuse(DataError("a day must be a list of messages", path=entry.label))
        return
    for number, item in enumerate(items, start=1):
        source = f"{entry.label}:message {number}"
        if not isinstance(item, dict):
            tally.refuse(DataError("a message must be an object", path=source))
            continue
        user = item.get("user")
        if item.get("subtype") not in _SPOKEN or item.get("type", "message") != "message" or item.get("bot_id"):
            tally.skip("a system message of the app or of a bot", source)
            continue
        if not isinstance(user, str) or not is_text(item.setdefault("text", "")):
            tally.refuse(DataError("a message has no sender, or its text is not text", path=source))
            continue
        if isinstance(item.get("user_profile"), dict) and user not in users:
            users[user] = _names({}, item["user_profile"], user)
        text = _plain(item["text"], users).strip() or block_text(item.get("blocks"), users)
        if not text:
            tally.skip("media without words", source)
            continue
        names = users.get(user, (user,))
        at, thread = _time(item.get("ts")), item.get("thread_ts")
        yield (thread if isinstance(thread, str) else ""), Message(names[0], text, at, source, None, names)


def _plain(text: str, users: dict[str, tuple[str, ...]]) -> str:
    """Slack's markup as plain text: <@U1> -> @name, <#C1|general> -> #general, <url|words> -> words."""

    def spoken(match: re.Match[str]) -> str:
        target, label = match[1], match[2]
        if target[0] == "@":
            return "@" + (label or users.get(target[1:], (target[1:],))[0])
        if target[0] == "#":
            return "#" + (label or target[1:])
        if target[0] == "!":
            return "@" + (label or target[1:].partition("^")[0]).removeprefix("@")
        return label or target.removeprefix("mailto:").removeprefix("tel:")

    return html.unescape(_LINK.sub(spoken, text))


def _time(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
