"""Cards by their check digit, IBANs by country, length and remainder, other account numbers by the word before them."""

from __future__ import annotations

import re
from collections import Counter

from .placeholders import ACCOUNT, CARD, substitute

_CARD = re.compile(r"(?<![\d.,+-])\d(?:[ -]?\d){12,18}(?![\d])")
_CARD_CODE = re.compile(r"(?i)\b(?:cvv2?|cvc2?)\b\s{0,2}(?:[:=]|\bis\b)?\s{0,2}(?P<value>\d{3,4})(?!\d)")
_CARD_START = re.compile(r"4|5[0-8]|2[2-7]|3[04-9]|6")
_ACCOUNT = re.compile(
    r"""(?i)\b(?:account|acct|a/c|konto|kontonummer|kontonr|compte|cuenta|conta|rekening
    |routing|sort\ code|blz|bankleitzahl|bsb|aba|iban|ssn|social\ security)
    \.?\s{0,2}(?:no|nr|number|num|nummer|code)?\b\.?\s{0,2}(?:[:#=]|\bis\b|\bist\b)?\s{0,2}\#?
    (?P<value>[A-Z]{0,2}\d(?:[ -]?\d){5,22})(?!\d)""",
    re.VERBOSE,
)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_IBAN_START = re.compile(r"\b[A-Za-z]{2}\d\d")
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 "
    "LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
    "RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    + "|".join(f"{each[:2]}\\d{{2}}(?:[ -]?[A-Z0-9]){{{int(each[2:]) - 4}}}" for each in _IBAN_LENGTHS.split())
    + r")(?![A-Za-z0-9])",
    re.IGNORECASE,
)


def scrub_accounts(text: str, counts: Counter[str]) -> str:
    """`text` without numbers of cards and accounts."""
    if _IBAN_START.search(text):
        text = substitute(_IBAN, text, ACCOUNT, counts, lambda match: _iban(match[0]))
    text = substitute(_CARD, text, CARD, counts, lambda match: _card(match[0]))
    if "cv" in text.lower():
        text = substitute(_CARD_CODE, text, CARD, counts)
    text = substitute(_ACCOUNT, text, ACCOUNT, counts)
    return substitute(_SSN, text, ACCOUNT, counts)


def _card(text: str) -> bool:
    digits = [int(letter) for letter in text if letter.isdigit()]
    if not _CARD_START.match(text) or len(set(text) & {" ", "-"}) > 1 or len(set(digits)) == 1:
        return False
    doubled = [digit if index % 2 == 0 else sum(divmod(2 * digit, 10)) for index, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _iban(text: str) -> bool:
    compact = re.sub(r"[ -]", "", text).upper()
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1
