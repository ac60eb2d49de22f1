"""The value after a name that says it is secret: `DB_PASSWORD=...`, `smtpPassword: "..."`, `Passwort ist ...`, `--token ...`.

What links a name to its value, and what the value looks like, decide together: any value in quotes or after `NAME=`, only
a mixed one after a verb.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from .found_value import Finding
from .placeholders import KEY, PASSWORD, replace_spans
from .secret_names import Name, find_names

_LINK = re.compile(
    r"""(?P<close>[\\"'`*_\])}]{0,6})(?:
      (?P<xml>>(?:<!\[CDATA\[)?)
    | ,?\s{1,40}[\\"']{0,4}value[\\"']{0,4}\s?(?P<attribute>[:=])\s{0,3}
    | (?:\[\d{0,4}\])?\s{0,3}(?::[ ]?(?:\w{1,12}\[)?&?(?i:str|string|securestring)\b[\]|\w ]{0,12}(?==))?
      (?P<sign>=>|:=|->|===?|!==?|[:=：＝])[ \t\u00a0*_]{0,4}(?P<line>\r?\n[ \t]{0,8})?
      (?:!!\w{1,6}[ ])?
    | [ ]?(?P<dash>[-–—→])[ ]
    | \s?(?P<cjk>[是为為はがは이은는]|：)\s{0,2}
    | [ \t]{0,3}\(?(?P<verb>is|ist|est|es|war|was|lautet)\b(?:\s{0,3}:)?[ ]{1,3}
    | (?P<call>[ ]?\(|,)\s?
    | (?P<gap>[ \t]{1,3}(?:[^\W\d_]{1,9}[ ]{1,2})?)
    )(?P<open>\\{0,4}["'`“„«「])?""",
    re.VERBOSE,
)
_FAR = re.compile(
    r"(?:[ ]\(?[^\s:=]{1,24}){1,4}(?:[ ]?:|[ ](?:is|ist|lautet|est|es|è|é|är|er|jest|to|это|je|adalah))[ ]{1,2}"
    r"(?P<open>[\"'`“„«])?"
)
_NEAR = re.compile(r"(?P<gap>[ \t]{1,3})(?P<open>[\"'`])?")
_VALUE = re.compile(r"""(?:(?![;&,]\s?[\w.-]{1,40}\s?[=:])(?!</|\\+[nrt"'])[^\s"'`“”„«»，。；、！」|])+""")
_PRINTABLE = re.compile(r"[!-~]+")
_JUDGED = 96  # letters of a value that are looked at: a longer one is one if its beginning is
_CLOSING = {"“": "”“", "„": "“”", "«": "»", "「": "」"}
_SEED = re.compile(r"(?P<app>[a-z]{4}(?: [a-z]{4}){3})(?! ?[a-z])|[a-z]{3,10}(?: [a-z]{3,10}){3,24}(?![a-z ])")


def scrub_named_values(text: str, counts: Counter[str]) -> str:
    """`text` without the values of names that say that they are secret."""
    return replace_spans(text, _spans(text), counts)


def _spans(text: str) -> Iterator[tuple[int, int, str]]:
    at = 0
    for name in find_names(text):
        if name.begin >= at and (span := _value_span(text, name)) is not None:
            yield *span, KEY if name.is_key else PASSWORD
            at = span[1]


def _value_span(text: str, name: Name) -> tuple[int, int] | None:
    link = _LINK.match(text, name.end)
    near = _NEAR.match(text, name.end) if link and link["gap"] and not link["gap"].isspace() else None
    far = _FAR.match(text, name.end) if not name.is_key and (link is None or link["gap"] or link["call"]) else None
    for found in (near, link, far):
        if found is None:
            continue
        begin, end = _value(text, found)
        if begin < end and Finding(text, name, found, begin, end).is_secret():
            longer = _VALUE.match(text, begin) if end - begin == _JUDGED else None
            return begin, longer.end() if longer else end
    return None


def _value(text: str, link: re.Match[str]) -> tuple[int, int]:
    """(begin, end) of the value: to the closing quote, or as far as nothing ends it."""
    begin, opened = link.end(), link["open"]
    if opened:
        closing = _CLOSING.get(opened[-1], opened[-1])
        ends = [at for mark in closing if (at := text.find(opened[:-1] + mark, begin, begin + 512)) >= 0]
        if ends and "\n" not in text[begin : min(ends)]:
            return begin, min(ends)
    seed = _SEED.match(text, begin)
    if seed and (seed["app"] or "phrase" in text[max(0, begin - 40) : begin].lower()):
        return begin, seed.end()
    value = (_PRINTABLE if link.groupdict().get("cjk") else _VALUE).match(text, begin, begin + _JUDGED)
    if value is None:
        return begin, begin
    end = value.end()
    while end > begin and (text[end - 1] in ".,;:?>" or (text[end - 1] in ")]}" and not set("([{") & set(value[0]))):
        end -= 1
    return begin, end
