"""The words that stand beside a date and a clock, in the languages of phones: day periods, and words between the two.

They are CLDR's, taken from babel when a line first has such a word: a file with a 24-hour clock never loads it. CLDR's
short and medium patterns, its skeletons of clocks and its day-period rules are used; month and weekday names are not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any

Hours = tuple[tuple[int, int], ...]

LANGUAGES = (
    "af am ar as az be bg bn bs ca cs cy da de el en en_GB es es_MX et eu fa fi fil fr fr_CA ga gl gu he hi hr hu hy id is "
    "it ja ka kk km kn ko ky lb lo lt lv mk ml mn mr ms my nb ne nl or pa pl ps pt pt_PT ro ru si sk sl sq sr sr_Latn sv "
    "sw ta te th tr uk ur uz vi yue zh zh_Hant zu"
)
_AT_TIME = (
    "ч at um à klo kl om alle ore às lúc pukul στις в о la u ob"  # CLDR's "atTime" patterns, which babel leaves out
)
_AM: Hours = ((0, 12),)
_PM: Hours = ((12, 24),)
_LATIN = {"am": _AM, "pm": _PM}
_QUOTED = re.compile(r"'([^']+)'|([^\x00-\x7f]+)")
_STYLES = ("short", "medium", "long", "full")


def hour_of_day(hour: int, part: Hours) -> int:
    """The hour of 0 to 23 of a clock of twelve hours in that part of the day; `hour` itself when no part is said."""
    if not part or hour > 12:
        return hour
    early, late = hour % 12, hour % 12 + 12
    return late if any(start <= late < end for start, end in part) else early


@lru_cache(maxsize=4096)
def part_of_day(words: str) -> Hours | None:
    """The hours that `words` beside a clock stand for, () when they say none, None when a word is not known."""
    whole = _letters(words)
    if not whole:
        return ()
    if whole in _LATIN:
        return _LATIN[whole]
    periods, fillers = _cldr()
    if whole in periods:
        return periods[whole]
    rest = [word for word in map(_letters, re.split(r"[\s,،、()]+", words)) if word not in fillers]
    left = "".join(rest)
    return () if not left else periods.get(left)


def _letters(words: str) -> str:
    """Only the letters of `words`, with the signs that belong to them, in one case."""
    folded = unicodedata.normalize("NFKC", words).casefold()
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LM")


@cache
def _cldr() -> tuple[dict[str, Hours], frozenset[str]]:
    """(day periods and their hours, words that are only said with a date or a clock)."""
    from babel import Locale, UnknownLocaleError

    periods: dict[str, Hours] = dict(_LATIN)
    fillers = {"", *_AT_TIME.split()}
    for name in LANGUAGES.split():
        try:
            locale = Locale.parse(name)
        except UnknownLocaleError:
            continue
        for word, hours in _periods(locale):
            if periods.get(word) not in (_AM, _PM):  # before noon and after noon tell more than a part of the day
                periods[word] = hours if hours in (_AM, _PM) else (*periods.get(word, ()), *hours)
        fillers |= set(_fillers(locale))
    return periods, frozenset(fillers - set(periods))


def _periods(locale: Any) -> Iterator[tuple[str, Hours]]:
    rules: dict[str, list[tuple[int, int]]] = {}
    for rule in locale.day_period_rules.values():
        for name, times in rule.items():
            rules.setdefault(name, []).extend(_hours(times))
    for context in locale.day_periods.values():
        for width in ("wide", "abbreviated"):
            for name, word in context.get(width, {}).items():
                hours = {"am": _AM, "pm": _PM}.get(name) or tuple(rules.get(name, ()))
                yield _letters(word), hours or _AM


def _hours(times: Any) -> Iterator[tuple[int, int]]:
    """Ranges of hours of a day-period rule, whose times are seconds of the day."""
    for one in times if isinstance(times, (list, tuple)) else [times]:
        if "at" in one:
            yield one["at"] // 3600 % 24, one["at"] // 3600 % 24 + 1
        elif "from" in one and "before" in one:
            start, end = one["from"] // 3600, one["before"] // 3600
            yield from [(start, end)] if start < end else [(start, 24), (0, end)]


def _fillers(locale: Any) -> Iterator[str]:
    patterns: list[Any] = [getattr(locale, kind).get(style) for kind in _KINDS for style in _STYLES]
    clocks = [pattern for key, pattern in locale.datetime_skeletons.items() if set(key) <= set("hHmsaBK")]
    for pattern in _texts([*patterns, *clocks]):
        for quoted, bare in _QUOTED.findall(pattern):
            yield from (_letters(word) for word in (quoted or bare).split())


_KINDS = ("date_formats", "time_formats", "datetime_formats")


def _texts(patterns: Iterable[Any]) -> Iterator[str]:
    for pattern in patterns:
        if pattern is not None:
            yield str(getattr(pattern, "pattern", pattern))
