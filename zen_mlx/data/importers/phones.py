"""Phone numbers in a text -> a placeholder. A run of digits counts when a country's rules (`phonenumbers`) and the way
it is written agree, so that prices, dates and book numbers stay."""

from __future__ import annotations

import locale
import re
from collections import Counter
from functools import lru_cache

import phonenumbers

KIND = "phone number"
_CANDIDATE = re.compile(
    r"(?<![\w.,/#+-])(?:\+|\(\+?(?=\d{1,5}\))|00)?\d(?:[ \u00a0\u202f().\-/\u2010-\u2013]{0,3}\d){5,17}(?![\w/]|[.,:-]\d)"
)
_NORTH_AMERICAN = re.compile(r"(?:1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}")
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}|\d{4} ?[-\u2013] ?\d{2,4}|\d{4}-\d\d-\d\d[ T]?\d.*")
_NAMED = re.compile(
    r"""(?i)\b(?:tel|telefon|telephone|phone|mobile|mobil|cell|handy|handynummer|fax|whatsapp|my\ number|meine\ nummer|
    (?:call|text|ring)\ me\ (?:at|on))\b\.?\s{0,2}(?:no|nr|number|nummer)?\.?\s{0,2}(?:is|ist|:|=)?\s{0,2}$""",
    re.VERBOSE,
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:([ \u00a0\u202f.])\d{3})(?:\1\d{3})+")
_UNIT = re.compile(
    r"""(?i)[\u0020\u00a0\u202f]?(?:[€$£¥₽₴₺₹%‰°]|(?:zł|pln|kč|czk|eur|euros?|usd|dollars?|gbp|pounds?|chf|kr|sek|nok|dkk|ft|huf|lei|ron
    |руб|рублей|грн|yen|jpy|km|m|kg|t|ha|l|gb|mb|kb|bytes?|tokens?|people|users?|inhabitants|residents|votes|copies|views|years|times
    |menschen|einwohner|stimmen|jahre|personen|habitants|personnes|habitantes|personas|pessoas|abitanti|persone|inwoners|mensen|osób
    |mieszkańców|человек|жителей|obyvatel|lidí)(?![^\W\d_]))
    |[\u0020\u00a0\u202f](?:million|billion|mio|mrd|mln|mld|млн|млрд)""",
    re.VERBOSE,
)
_PRICED = re.compile(r"(?:[€$£¥₽₴₺₹]|(?i:eur|usd|gbp|chf|pln|czk|sek|nok|dkk))[ \u00a0]?$")
_REGIONS = (
    "US GB DE FR ES IT NL AT CH BE IE PT DK SE NO FI PL CZ GR HU RO TR RU UA IN AU NZ ZA BR MX AR CL CO JP KR CN HK SG"
)


def scrub_phones(text: str, counts: Counter[str]) -> str:
    """`text` without phone numbers; how many there were is added to `counts`."""

    def placeholder(match: re.Match[str]) -> str:
        named = _NAMED.search(text, max(0, match.start() - 40), match.start())
        if not named and (_is_amount(text, match) or not _is_phone(match[0])):
            return match[0]
        counts[KIND] += 1
        return f"[{KIND}]"

    return _CANDIDATE.sub(placeholder, text)


def _is_amount(text: str, match: re.Match[str]) -> bool:
    """True for thousands in groups that end in zeros, or have a unit or currency beside them."""
    if not _THOUSANDS.fullmatch(match[0]):
        return False
    beside = _UNIT.match(text, match.end()) or _PRICED.search(text, max(0, match.start() - 5), match.start())
    return match[0].endswith("000") or beside is not None


def _is_phone(written: str) -> bool:
    digits = re.sub(r"\D", "", written)
    if _DATE.fullmatch(written) or digits in "01234567890123456789" or not 7 <= len(digits) <= 17:
        return False
    if written.lstrip("(")[0] == "+":
        return len(digits) >= 8 and _parsed("+" + digits, None) is not None
    if written.startswith("00") and len(digits) >= 10 and _valid("+" + digits[2:], None):
        return True
    if _NORTH_AMERICAN.fullmatch(written):
        return True
    groups = re.findall(r"\d+", written)
    return any(_written_like(written, groups, digits, region) for region in _regions())


def _written_like(written: str, groups: list[str], digits: str, region: str) -> bool:
    """True for a valid number of `region` that is grouped as there, or has the trunk zero in front."""
    if len(digits) < 8 or not (number := _valid(digits, region)):
        return False
    if digits[0] == "0" and 10 <= len(digits) <= 12 and len(groups) <= 5 and "." not in written:
        return len(groups) == 1 or len(groups[0]) >= 2
    shown = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    return len(groups) > 1 and re.findall(r"\d+", shown) == groups


def _parsed(digits: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return None
    return number if phonenumbers.is_possible_number(number) else None


def _valid(digits: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    number = _parsed(digits, region)
    return number if number is not None and phonenumbers.is_valid_number(number) else None


@lru_cache
def _regions() -> tuple[str, ...]:
    """The regions whose national numbers are known, the one of this machine's language first."""
    own = (locale.getlocale()[0] or "").partition("_")[2][:2].upper()
    known = _REGIONS.split()
    return tuple(dict.fromkeys([own, *known] if own.isalpha() and len(own) == 2 else known))
