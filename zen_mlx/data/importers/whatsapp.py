"""A chat exported by WhatsApp as text, in any of its date formats.

    iPhone:   [31.12.23, 23:59:58] Anna: text          Android:   12/31/23, 11:59 PM - Anna: text

The order of day and month is not in the file: it is the one that fits every date, else the one in which time goes
forward, else month first where the clock has AM and PM. Left out: media, calls, deleted messages, what the app says. A line
that begins like a date and a clock in a form that is not known ends the message before it, and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import DataError
from ..example import Example
from .conversations import Message, conversations
from .dated_lines import Dated, Dates, dated, like_dated, seconds
from .entries import Entry
from .lines import numbered_lines, undecodable
from .tally import Tally
from .whatsapp_words import is_edited_mark, is_gone

_SENDER = re.compile(r"(?P<sender>[^:“”\"]{1,80}?):(?:\s|$)(?P<text>.*)", re.DOTALL)
_ATTACHED = re.compile(r"\S[^\n]{0,120}\.[A-Za-z0-9]{2,5} \([^)\n]{3,40}\)")
_LAST_ANGLES = re.compile(r"\s*(?P<mark>\u200e?)<(?P<words>[^<>\n]{3,60})>\u200e?\s*\Z")
_ANGLES_CHARS = 80
_PLACEHOLDER = re.compile(r"<[^<>\n]{3,80}>")
_MARKS = "\u200e\u200f\u202a\u202b\u202c\u2068\u2069 "
_NOTHING = "media or a system message of the app"


@dataclass
class _Waiting:
    """A message whose last line has not come yet. of_app: the line carries the mark of what the app wrote."""

    sender: str
    at: float | None
    source: str
    lines: list[str]
    of_app: bool


def is_whatsapp(entry: Entry) -> bool:
    """True when the first lines of a text file are a WhatsApp chat's."""
    with entry.open_text() as handle:
        lines = [line for line in handle.read(8192).split("\n") if line.strip()][:20]
    found = [each for line in lines if (each := dated(line))]
    if not found or not dated(lines[0]):
        return False
    return len(found) >= 2 or _SENDER.match(found[0].rest) is not None


def read_whatsapp(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The conversations of one exported chat."""
    order, marked = _survey(entry)
    for example in conversations(_messages(entry, order, marked, tally), entry.label, tally):
        yield "WhatsApp", example


def _survey(entry: Entry) -> tuple[str, bool]:
    """(the order of the dates, True when only some of the lines have a mark of direction before their bracket)."""
    dates = Dates()
    lines = marks = 0
    for _, line in numbered_lines(entry):
        if each := dated(line):
            dates.add(each)
            lines += 1
            marks += each.bracket and each.lead.endswith("\u200e")
    return dates.order(), 2 * marks <= lines


def _messages(entry: Entry, order: str, marked: bool, tally: Tally) -> Iterator[Message]:
    waiting: _Waiting | None = None
    begun = False  # a mark before the first line is the file's
    for number, line in numbered_lines(entry):
        source = f"{entry.label}:{number}"
        if undecodable(line):
            tally.refuse(DataError("not UTF-8 text", path=source))
            continue
        each = dated(line)
        if each is None and not like_dated(line):
            if waiting is not None:
                waiting.lines.append(line)
            continue
        if waiting is not None:
            yield from _finish(waiting, tally)
        waiting = None if each is None else _begin(each, order, marked and begun, source, tally)
        begun = True
        if each is None:
            tally.refuse(DataError("a line begins like a message, in a form that is not known", path=source))
    if waiting is not None:
        yield from _finish(waiting, tally)


def _begin(line: Dated, order: str, marked: bool, source: str, tally: Tally) -> _Waiting | None:
    said = _SENDER.match(line.rest)
    if said is None:
        tally.skip("a system message of the app", source)
        return None
    at = seconds(line, order)
    if at is None:
        tally.refuse(DataError("this date does not exist", path=source))
        return None
    of_app = marked and line.bracket and line.lead.endswith("\u200e") and "\u200e" not in said["text"]
    return _Waiting(said["sender"].strip(_MARKS), at, source, [said["text"]], of_app)


def _finish(waiting: _Waiting, tally: Tally) -> Iterator[Message]:
    text = "\n".join(waiting.lines).strip()
    if waiting.of_app or text.startswith("\u200e") or _PLACEHOLDER.fullmatch(text):  # media, polls, joined
        tally.skip(_NOTHING, waiting.source)
        return
    if is_gone(text):
        tally.skip("a deleted message or a call", waiting.source)
        return
    first, _, rest = text.partition("\n")
    if _ATTACHED.fullmatch(first.replace("\u200e", "")):
        text = rest.strip()  # what is left is the caption
    text = _without_edited(text).replace("\u200e", "").strip()
    if not text:
        tally.skip(_NOTHING, waiting.source)
        return
    yield Message(waiting.sender, text, waiting.at, waiting.source)


def _without_edited(text: str) -> str:
    """`text` without the mark of an edited message at its end: one with the app's mark, or in words that are known."""
    tail = text[-_ANGLES_CHARS:]
    found = _LAST_ANGLES.search(tail)
    if found and (found["mark"] or is_edited_mark(found["words"])):
        return text[: len(text) - len(tail) + found.start()]
    return text
