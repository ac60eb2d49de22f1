"""Lines that begin with a date and a clock, in any language of CLDR: `[31.12.23, 23:59:58] ` or `12/31/23, 11:59 PM - `.

Digits, spaces and marks of direction are those of Unicode, the words beside the clock are `clock_words`. The order of day
and month is not in a line: `Dates` finds the one that fits every line of a file. Every pattern looks at a bounded part of
a line, so its time does not grow with the square of anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

from .clock_words import hour_of_day, part_of_day

MARKS = r"[\u200b-\u200f\u061c\u202a-\u202e\u2060-\u2069\ufeff]{0,8}"
_DATE = (
    rf"(?P<a>\d{{1,4}}){MARKS}\s?(?P<mark>[./\-‐‑–年년])\s?{MARKS}(?P<b>\d{{1,2}}){MARKS}"
    rf"\s?[./\-‐‑–月월]\s?{MARKS}(?P<c>\d{{1,4}})(?:\s?[日일])?"
)
_CLOCK = r"(?P<hour>\d{1,2})(?:[:.٫]|\s?h\s?)(?P<minute>\d{1,2})(?:[:.٫](?P<second>\d{2}))?"
_END = rf"(?(open)\]{MARKS}\s?|{MARKS}\s[-–—]\s)(?P<rest>.*)"
_BEGIN = rf"(?P<lead>{MARKS})(?P<open>\[)?{MARKS}"
_DATE_FIRST = re.compile(
    rf"{_BEGIN}{_DATE}(?P<mid>[^\d\[\]\n]{{1,24}}?){_CLOCK}(?P<tail>[^\d\[\]:\n]{{0,24}}?){_END}", re.IGNORECASE
)
_CLOCK_FIRST = re.compile(
    rf"{_BEGIN}(?P<tail>){_CLOCK}(?P<mid>[^\d\[\]\n]{{1,24}}?){_DATE}[^\d\[\]:\n]{{0,24}}?{_END}", re.IGNORECASE
)
DAY = (
    r"(?:\d{1,4}[^\w\n]{1,4}(?:\d{1,2}|[^\s\d]{1,15})[^\w\n]{1,4}\d{1,4}"
    r"|\d{1,4}\s?[年년]\s?\d{1,2}\s?[月월]\s?\d{1,2}"
    r"|[^\s\d\[]{2,15}\s\d{1,2}[^\w\n]{1,3}\d{2,4})"
)
HOUR = r"\d{1,2}(?:\s?[:٫h时時시]\s?\d{1,2}|\.\d{2})(?!\d)"
WEEKDAY = r"(?:[^\s\d,]{2,12},?\s)?"
_LIKE = re.compile(
    rf"{MARKS}\[?{MARKS}{WEEKDAY}(?:{DAY}[^\d\n]{{1,30}}?{HOUR}|{HOUR}[^\d\n]{{1,30}}?{DAY})", re.IGNORECASE
)
_FIRST_YEAR = 2009  # of WhatsApp
_EPOCH_DAY = date(1970, 1, 1).toordinal()


class Dated(NamedTuple):
    """What stands before a message, its numbers not yet in order. lead: the marks of direction before everything."""

    lead: str
    bracket: bool
    numbers: tuple[int, int, int]
    year_first: bool
    dotted: bool
    hour: int
    minute: int
    second: int
    halves: bool
    rest: str


def dated(line: str) -> Dated | None:
    """The date, the clock and the rest of a line; None when it begins in no form that is known."""
    match = _DATE_FIRST.match(line) or _CLOCK_FIRST.match(line)
    if match is None:
        return None
    part = part_of_day(f"{match['mid']} {match['tail']}")
    if part is None:
        return None
    numbers = int(match["a"]), int(match["b"]), int(match["c"])
    hour = hour_of_day(int(match["hour"]), part)
    second = int(match["second"] or 0)
    return Dated(
        match["lead"],
        match["open"] is not None,
        numbers,
        len(match["a"]) == 4,
        match["mark"] == ".",
        hour,
        int(match["minute"]),
        second,
        bool(part),
        match["rest"],
    )


def like_dated(line: str) -> bool:
    """True when a line begins like a date and a clock, in whatever form."""
    return _LIKE.match(line) is not None


@dataclass
class Dates:
    """What the dates of a file say about their own order. backwards: steps back in time in each order."""

    possible: set[str] = field(default_factory=lambda: {"dmy", "mdy", "ymd"})
    backwards: dict[str, int] = field(default_factory=lambda: {"dmy": 0, "mdy": 0, "ymd": 0})
    halves: bool = False
    dotted: bool = False
    last: tuple[int, int, int] | None = None

    def add(self, line: Dated) -> None:
        """Take one line into account."""
        self.halves |= line.halves
        self.dotted |= line.dotted
        if line.year_first:
            self.possible &= {"ymd"}
        if line.numbers == self.last:
            return
        for order in tuple(self.possible):
            now = ordered(line.numbers, order)
            if not _real(now) and len(self.possible) > 1:
                self.possible.discard(order)
            elif self.last is not None:
                self.backwards[order] += now < ordered(self.last, order)
        self.last = line.numbers

    def order(self) -> str:
        """The order of year, month and day."""
        usual = ("mdy", "dmy", "ymd") if self.halves and not self.dotted else ("dmy", "mdy", "ymd")
        return min((order for order in usual if order in self.possible), key=lambda order: self.backwards[order])


def ordered(numbers: tuple[int, int, int], order: str) -> tuple[int, int, int]:
    """(year, month, day)."""
    a, b, c = numbers
    year, month, day = (a, b, c) if order == "ymd" else (c, b, a) if order == "dmy" else (c, a, b)
    return (year + 2000 if year < 100 else year), month, day


def seconds(line: Dated, order: str) -> float | None:
    """Seconds since 1970, right for pauses; None when there is no such moment. Years far from ours are another calendar's."""
    year, month, day = ordered(line.numbers, order)
    if not (line.hour < 25 and line.minute < 60 and line.second < 62):
        return None
    try:
        days: float = date(year, month, day).toordinal()
    except ValueError:
        if (month, day) == (2, 29):  # a leap year of another calendar, in two digits
            return seconds(line._replace(numbers=_first_of_march(order, line.numbers)), order)
        if 1970 <= year < 2100 or not (1 <= month <= 13 and 1 <= day <= 32):
            return None
        days = (year - 1) * 365.25 + month * 30.5 + day
    return (days - _EPOCH_DAY) * 86400 + line.hour * 3600 + line.minute * 60 + line.second


def _first_of_march(order: str, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    a, _, c = numbers
    return (a, 3, 1) if order == "ymd" else (1, 3, c) if order == "dmy" else (3, 1, c)


def _real(day_of_year: tuple[int, int, int]) -> bool:
    year, month, day = day_of_year
    return 1 <= month <= 12 and 1 <= day <= 32 and year >= 1300 and not 2000 <= year < _FIRST_YEAR
