"""The text of a mail -> the words of its author: no quoted mails, nothing that introduces them, no signature.

Every pattern runs on one line of bounded length, or on three of them, so that the time is linear in the text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .mail_wordings import COPY, DEVICE, FORWARDED, FROM, LINE, RULE, SENT, SUBJECT, TO, WROTE

_MOST_LINE_CHARS = 400  # no header, rule or intro is longer
_HEADER_LINES = 8
_INTRO_LINES = 3
_ROLES = {word: role for role, words in enumerate((FROM, SENT, TO, SUBJECT, COPY)) for word in words}
_FIELD = re.compile(r"\s*\*?([^\s:：*][^:：*\n]{0,20}?)\s?\*?[:：]\*?(.*)")
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}")
_CLOCK = re.compile(r"\b\d{1,2}[:.h]\d{2}\b")
_DATE = re.compile(
    r"\d{1,4}[./-]\s?\d{1,2}[./-]\s?\d{2,4}|\d{1,2}\b\D{1,25}\b(?:19|20)\d{2}|(?:19|20)\d{2}\D{1,20}\d{1,2}\b|\d年"
)


def own_words(text: str) -> str:
    """The words of the mail's author; a device's line (`Sent from my ...`) goes too."""
    lines = text.split("\n")
    kept: list[str] = []
    quoted = False
    for index, line in enumerate(lines):
        if _ends_own_words(lines, index):
            break
        if not line.startswith(">"):
            kept.append(line)
        elif not quoted:
            _drop_introduction(kept)
            _drop_device(kept)
        quoted = line.startswith(">")
    _drop_device(kept)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _ends_own_words(lines: list[str], index: int) -> bool:
    """True where all that follows is a signature or another's mail."""
    line = lines[index]
    if line.rstrip(" ") == "--":
        return True
    if not line or len(line) > _MOST_LINE_CHARS:
        return False
    if RULE.fullmatch(line) or LINE.fullmatch(line) or FORWARDED.fullmatch(line):
        return True
    return _is_header_block(lines, index) or (
        _is_whole_introduction(line) and not _is_marked(lines[index + 1 : index + 4])
    )


@lru_cache(maxsize=64)  # a line is looked at from each of those above it
def _role(line: str) -> int | None:
    found = _FIELD.fullmatch(line[:_MOST_LINE_CHARS])
    return _ROLES.get(found[1].strip().lower()) if found else None


def _is_header_block(lines: list[str], index: int) -> bool:
    """From and two other fields, with an address or a date with a clock: a list of `From: To: Date:` may be the author's."""
    if _role(lines[index]) != _ROLES["from"]:
        return False
    block = [line[:_MOST_LINE_CHARS] for line in lines[index : index + _HEADER_LINES]]
    if "" in block:
        block = block[: block.index("")]
    roles = {_role(line) for line in block} - {None}
    text = " ".join(block)
    return len(roles) >= 3 and bool(_ADDRESS.search(text) or (_CLOCK.search(text) and _DATE.search(text)))


def _is_whole_introduction(line: str) -> bool:
    """An intro so complete that the quote below it needs no marks, as Outlook's for phones."""
    return line.rstrip().endswith((":", "：")) and bool(
        WROTE.search(line) and _ADDRESS.search(line) and _DATE.search(line) and _CLOCK.search(line)
    )


def _is_marked(below: list[str]) -> bool:
    """True when the next words are a quote with `>`: then the author's may follow it."""
    return next((line for line in below if line.strip()), "").startswith(">")


def _is_introduction(text: str) -> bool:
    """`On 1 May 2024, Anna wrote:`; without a verb it takes an address and a date or clock."""
    address, date = _ADDRESS.search(text), _DATE.search(text)
    return bool((date or address) if WROTE.search(text) else (address and (date or _CLOCK.search(text))))


def _drop_introduction(kept: list[str]) -> None:
    """Take the line that introduces a quote, which may be broken over lines, off the end of `kept`."""
    end = _end_of_words(kept)
    if not end or not kept[end - 1].rstrip().endswith((":", "：")):
        return
    for count in range(1, _INTRO_LINES + 1):
        lines = kept[max(0, end - count) : end]
        if not lines[0].strip() or count > end:
            return
        if _is_introduction(" ".join(line[:_MOST_LINE_CHARS] for line in lines)[:_MOST_LINE_CHARS]):
            del kept[_first_of_introduction(kept, end - count) :]
            return


def _first_of_introduction(kept: list[str], begin: int) -> int:
    """An intro's first line may hold the date only: `On Monday, 1 May 2024`, in its own paragraph."""
    above = kept[begin - 1] if begin else ""
    alone = begin < 2 or not kept[begin - 2].strip()
    dated = _DATE.search(above[:_MOST_LINE_CHARS]) or _CLOCK.search(above[:_MOST_LINE_CHARS])
    return begin - 1 if alone and dated and not above.rstrip().endswith((".", "!", "?")) else begin


def _drop_device(kept: list[str]) -> None:
    """Take `Sent from my phone` off the end of `kept`, if it is a paragraph of its own."""
    end = _end_of_words(kept)
    if not end or len(kept[end - 1]) > _MOST_LINE_CHARS or not DEVICE.fullmatch(kept[end - 1]):
        return
    if end == 1 or not kept[end - 2].strip():
        del kept[end - 1 :]


def _end_of_words(kept: list[str]) -> int:
    end = len(kept)
    while end and len(kept) - end < _INTRO_LINES and not kept[end - 1].strip():
        end -= 1
    return end
