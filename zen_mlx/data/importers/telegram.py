"""Telegram Desktop's result.json: one chat, or all of them with who you are. Read as a stream, one chat in memory.

A topic of a forum is a conversation of its own: its root is the service message that created it, and every message of it
replies to that root or to a message of the topic (telegramdesktop/tdesktop export_output_json.cpp: `topic_created`,
`reply_to_message_id`).

Left out: service messages, media without a caption, and what you only forwarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from ijson.common import ObjectBuilder

from ...errors import DataError
from ...fsio import Json
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry
from .lines import JSON_FAULTS, json_events
from .rows import is_text
from .tally import Tally


def read_telegram(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The conversations of every chat in the export."""
    for number, (me, messages) in enumerate(_chats(entry), start=1):
        name = f"{entry.label}:chat {number}"
        for topic, spoken in _topics(_messages(messages, name, me, tally)):
            place = f"{name} topic {topic}" if topic else name
            yield from (("Telegram", example) for example in conversations(spoken, place, tally))


def _topics(messages: Iterator[tuple[int, Message]]) -> Iterator[tuple[int, Iterable[Message]]]:
    """(topic, its messages) of one chat, 0 for what is in none; held in memory from the first topic on."""
    later: dict[int, list[Message]] = {}

    def general() -> Iterator[Message]:
        for topic, message in messages:
            if topic:
                later.setdefault(topic, []).append(message)
            else:
                yield message

    yield 0, general()
    yield from later.items()


def _chats(entry: Entry) -> Iterator[tuple[str | None, Iterator[Json]]]:
    """(your sender id if the export has it, the messages) of every chat."""
    events = _events(entry)
    me = None
    for prefix, event, value in events:
        if prefix == "personal_information.user_id" and event == "number":
            me = f"user{value}"
        elif event == "start_array" and (prefix == "messages" or prefix.endswith(".list.item.messages")):
            yield me, _items(events, f"{prefix}.item", prefix)


def _events(entry: Entry) -> Iterator[tuple[str, str, Any]]:
    try:
        with entry.open() as handle:
            yield from json_events(handle)
    except JSON_FAULTS:
        raise DataError("not valid JSON", path=entry.label) from None


def _items(events: Iterator[tuple[str, str, Any]], prefix: str, end: str) -> Iterator[Json]:
    """Objects at `prefix`, until the array at `end` closes."""
    for where, event, value in events:
        if where == end and event == "end_array":
            return
        if where == prefix and event == "start_map":
            builder = ObjectBuilder()
            builder.event(event, value)
            for place, kind, content in events:
                builder.event(kind, content)
                if place == prefix and kind == "end_map":
                    break
            yield builder.value


def _topic_of(item: Json, topics: dict[int, int]) -> int:
    """The topic of a message, 0 for none; `topics` has those of all messages before it."""
    identity, answered = item.get("id"), item.get("reply_to_message_id")
    if item.get("action") == "topic_created" and isinstance(identity, int):
        topics[identity] = identity
    topic = topics.get(answered, 0) if isinstance(answered, int) else 0
    if topic and isinstance(identity, int):
        topics[identity] = topic
    return topic


def _messages(items: Iterator[Json], name: str, me: str | None, tally: Tally) -> Iterator[tuple[int, Message]]:
    """(topic or 0, message)."""
    topics: dict[int, int] = {}
    for number, item in enumerate(items, start=1):
        identity = item.get("id")
        topic = _topic_of(item, topics)
        source = f"{name} message {identity if isinstance(identity, int) else number}"
        if item.get("type") != "message":
            tally.skip("a system message of the app", source)
            continue
        sender = item.get("from") or item.get("from_id")
        text = _text(item.get("text"))
        if not isinstance(sender, str) or not is_text(sender) or not is_text(text):
            tally.refuse(DataError("a message has no sender, or its text is not text", path=source))
            continue
        if not text.strip():
            tally.skip("media without words", source)
            continue
        from_id = item.get("from_id") if isinstance(item.get("from_id"), str) else ""
        mine = from_id == me if me is not None and not tally.options.me else None
        names = (from_id,) if from_id else ()
        if ("forwarded_from" in item or "forwarded_from_id" in item) and (mine or tally.is_me((sender, *names))):
            tally.skip("forwarded by you, written by others", source)
            continue
        yield topic, Message(sender, text, _time(item), source, mine, names)


def _text(value: object) -> object:
    """The text of a message: a string, or a list of strings and of objects with a `text`."""
    if isinstance(value, list):
        parts: list[Any] = [part.get("text") if isinstance(part, dict) else part for part in value]
        return "".join(parts) if all(isinstance(part, str) for part in parts) else None
    return value


def _time(item: Json) -> float | None:
    try:
        return float(item["date_unixtime"])
    except (KeyError, TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(item["date"]).replace(tzinfo=UTC).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
