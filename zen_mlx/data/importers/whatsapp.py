"""A chat exported by WhatsApp as text, in any of its date formats.

    iPhone:   [31.12.23, 23:59:58] Anna: text          Android:   12/31/23, 11:59 PM - Anna: text

The order of day and month is not in the file: it is the one that fits every date, else the one in which time goes
forward, else month first where the clock has AM and PM. Left out: media, calls, deleted messages, what the app says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ...errors import DataError
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry
from .lines import numbered_lines, undecodable
from .tally import Tally

_HEADER = re.compile(
    r"""[\u200e\u200f\u202a-\u202e\ufeff]*
    (?P<open>\[)?
    (?P<a>\d{1,4})(?P<mark>[./-])\ ?(?P<b>\d{1,2})(?P=mark)\ ?(?P<c>\d{2,4})\.?
    ,?\s(?:à\s|um\s|klo\s|kl\.?\s|at\s)?
    (?P<before>上午|下午|午前|午後|오전|오후)?\s?
    (?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?
    \s?(?P<half>[APap]\.?\s?[Mm]\.?)?
    (?(open)\]\s?|\s[-–]\s)
    (?P<rest>.*)""",
    re.VERBOSE,
)
_SENDER = re.compile(r"(?P<sender>[^:“”\"]{1,80}?):(?:\s|$)(?P<text>.*)", re.DOTALL)
_ATTACHED = re.compile(r"\S[^\n]{0,120}\.[A-Za-z0-9]{2,5} \([^)\n]{3,40}\)")
_EDITED = re.compile(r"\s*\u200e?<[^<>\n]{3,60}>\s*\Z")
_PLACEHOLDER = re.compile(r"<[^<>\n]{3,80}>")
_GONE = (
    "this message was deleted",
    "you deleted this message",
    "diese nachricht wurde gelöscht",
    "du hast diese nachricht gelöscht",
    "ce message a été supprimé",
    "vous avez supprimé ce message",
    "se eliminó este mensaje",
    "eliminaste este mensaje",
    "mensagem apagada",
    "questo messaggio è stato eliminato",
    "dit bericht is verwijderd",
    "missed voice call",
    "missed video call",
    "null",
)
_PM = ("p", "下午", "午後", "오후")


@dataclass
class _Dates:
    """What the dates of a file say about their own order."""

    most_first: int = 0
    most_second: int = 0
    most_third: int = 0
    year_first: bool = False
    halves: bool = False
    dotted: bool = False
    backwards: tuple[int, int] = (0, 0)  # steps back in time when read day first, month first

    def order(self) -> str:
        """The order of year, month and day."""
        if self.year_first:
            return "ymd"
        if self.most_first > 12:
            return "dmy"
        if self.most_second > 12:
            return "mdy"
        day_first, month_first = self.backwards
        if day_first != month_first:
            return "dmy" if day_first < month_first else "mdy"
        return "mdy" if self.halves and not self.dotted else "dmy"


def is_whatsapp(entry: Entry) -> bool:
    """True when the first lines of a text file are a WhatsApp chat's."""
    with entry.open_text() as handle:
        lines = [line for line in handle.read(8192).split("\n") if line.strip()][:20]
    found = [match for line in lines if (match := _HEADER.match(line))]
    if not found or not _HEADER.match(lines[0]):
        return False
    return len(found) >= 2 or _SENDER.match(found[0]["rest"]) is not None


def read_whatsapp(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The conversations of one exported chat."""
    order = _order(entry)
    for example in conversations(_messages(entry, order, tally), entry.label, tally):
        yield "WhatsApp", example


def _order(entry: Entry) -> str:
    dates = _Dates()
    last: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    for _, line in numbered_lines(entry):
        if not (match := _HEADER.match(line)):
            continue
        a, b, c = (int(match[name]) for name in "abc")
        dates.year_first |= len(match["a"]) == 4
        dates.most_first, dates.most_second = max(dates.most_first, a), max(dates.most_second, b)
        dates.halves |= bool(match["half"] or match["before"])
        dates.dotted |= match["mark"] == "."
        now = (c, b, a), (c, a, b)
        if last is not None:
            steps = dates.backwards
            dates.backwards = (steps[0] + (now[0] < last[0]), steps[1] + (now[1] < last[1]))
        last = now
    return dates.order()


def _messages(entry: Entry, order: str, tally: Tally) -> Iterator[Message]:
    waiting: tuple[str, float | None, str, list[str]] | None = None
    for number, line in numbered_lines(entry):
        source = f"{entry.label}:{number}"
        if undecodable(line):
            tally.refuse(DataError("not UTF-8 text", path=source))
            continue
        match = _HEADER.match(line)
        if match is None:
            if waiting is not None:
                waiting[3].append(line)
            continue
        if waiting is not None:
            yield from _finish(waiting, tally)
        waiting = None
        said = _SENDER.match(match["rest"])
        if said is None:
            tally.skip("a system message of the app", source)
            continue
        at = _time(match, order)
        if at is None:
            tally.refuse(DataError("this date does not exist", path=source))
            continue
        waiting = said["sender"].strip("\u200e\u202a\u202c "), at, source, [said["text"]]
    if waiting is not None:
        yield from _finish(waiting, tally)


def _finish(waiting: tuple[str, float | None, str, list[str]], tally: Tally) -> Iterator[Message]:
    sender, at, source, lines = waiting
    text = "\n".join(lines).strip()
    if text.startswith("\u200e") or _PLACEHOLDER.fullmatch(text):  # the app's own words: media, polls, joined
        tally.skip("media or a system message of the app", source)
        return
    if text.rstrip(".").lower() in _GONE:
        tally.skip("a deleted message or a call", source)
        return
    first, _, rest = text.partition("\n")
    if _ATTACHED.fullmatch(first.replace("\u200e", "")):
        text = rest.strip()  # what is left is the caption
    if "\u200e<" in text or text.endswith(("edited>", "edited>\u200e")):
        text = _EDITED.sub("", text)
    text = text.replace("\u200e", "").strip()
    if not text:
        tally.skip("media or a system message of the app", source)
        return
    yield Message(sender, text, at, source)


def _time(match: re.Match[str], order: str) -> float | None:
    a, b, c = (int(match[name]) for name in "abc")
    year, month, day = {"ymd": (a, b, c), "dmy": (c, b, a), "mdy": (c, a, b)}[order]
    hour = int(match["hour"])
    half = match["half"] or match["before"]
    if half:
        hour = hour % 12 + (12 if half.lower().startswith(_PM) else 0)
    try:
        moment = datetime(
            year + 2000 if year < 100 else year,
            month,
            day,
            hour,
            int(match["minute"]),
            int(match["second"] or 0),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return moment.timestamp()
