"""Scrub secrets and contacts: neutral placeholders take their place, with counts by kind and never a value.

Keys and tokens by the prefixes their makers gave them so that they can be found; passwords and account numbers by the
word before them; cards by their check digit, IBANs by country, length and remainder; phone numbers by `phonenumbers`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..example import Example
from .phones import scrub_phones

_PREFIXED = re.compile(
    r"""(?<![A-Za-z0-9_])(?:
    (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}                                # AWS
    |sk-[A-Za-z0-9_-]{20,}                                             # OpenAI, Anthropic, DeepSeek, OpenRouter
    |gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}           # GitHub
    |gl[a-z]{1,6}-[A-Za-z0-9_-]{20,}                                   # GitLab
    |xox[a-z]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}              # Slack
    |[rsp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{20,}   # Stripe
    |AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_.-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}   # Google
    |hf_[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{30,}|r8_[A-Za-z0-9]{30,}|xai-[A-Za-z0-9]{30,}|pplx-[A-Za-z0-9]{30,}|nvapi-[A-Za-z0-9_-]{30,}
    |npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|do[opr]_v1_[a-f0-9]{60,}|dckr_pat_[A-Za-z0-9_-]{20,}
    |SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|key-[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}   # SendGrid, Mailgun, Mailchimp
    |(?:AC|SK)[0-9a-f]{32}|sq0[a-z]{3}-[A-Za-z0-9_-]{20,}|shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}|dapi[a-f0-9]{32}
    |(?:secret|ntn|lin_api|figd|pat)_[A-Za-z0-9]{36,}|hv[sbr]\.[A-Za-z0-9_-]{24,}|AGE-SECRET-KEY-1[0-9A-Z]{50,}
    |\d{8,10}:AA[A-Za-z0-9_-]{32,}                                     # Telegram bots
    |[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}   # Discord bots
    |eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)? # JSON web tokens
    )""",
    re.VERBOSE,
)
_HOOK = re.compile(
    r"(?:hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/|[a-z0-9-]{1,63}\.webhook\.office\.com/)[A-Za-z0-9/_@.-]{10,}"
)
_BEARER = re.compile(r"(?i)\b(?:bearer|authorization:\s*(?:basic|token|bearer))\s+(?P<value>[A-Za-z0-9._~+/=-]{16,})")
_URL_LOGIN = re.compile(r"(?<=://)(?P<value>[^\s/:@]{1,128}:[^\s/@]{1,256})(?=@)")
_ASSIGNED = re.compile(
    r"""(?i)(?:key|token|secret|credentials?)(?:[_-]?(?:id|key))?\b["'`]?\s{0,3}(?:=>|:=|[:=]|\bis\b)\s{0,3}["'`]?
    (?P<value>[^\s"'`,;<>\[\]]{8,512})""",
    re.VERBOSE,
)
_PASSWORD = re.compile(
    r"""(?i)\b(?:pass(?:word|wd|wort|code|phrase)?|pwd|pw|kennwort|passwort|mot\ de\ passe|contrase[ñn]a|senha|wachtwoord|parola
    |pin(?:[ -]?code)?)
    ["'`]?\s{0,3}(?P<link>=>|:=|[:=]|\b(?:is|ist|est|es|war|was|lautet)\b(?:\s{0,3}:)?)\s{0,3}["'`]?
    (?P<value>[^\s"'`,;<>\[\]]{4,256})""",
    re.VERBOSE,
)
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]+: [^\n]*|\s+|\\n)*")
_CARD = re.compile(r"(?<![\d.,+-])\d(?:[ -]?\d){12,18}(?![\d])")
_CARD_START = re.compile(r"4|5[0-8]|2[2-7]|3[04-9]|6")
_ACCOUNT = re.compile(
    r"""(?i)\b(?:account|acct|a/c|konto|kontonummer|kontonr|compte|cuenta|conta|rekening
    |routing|sort\ code|blz|bankleitzahl|bsb|aba|iban|ssn|social\ security)
    \.?\s{0,2}(?:no|nr|number|num|nummer|code)?\b\.?\s{0,2}(?:[:#=]|\bis\b|\bist\b)?\s{0,2}\#?
    (?P<value>[A-Z]{0,2}\d(?:[ -]?\d){5,22})(?!\d)""",
    re.VERBOSE,
)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_DIGIT = re.compile(r"\d")  # cheap looks before the dear ones
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


def scrub(text: str, counts: Counter[str], keep_contacts: bool) -> str:
    """`text` with placeholders for what is secret; how many of each kind are added to `counts`."""
    text = _private_keys(text, counts)
    text = _sub(_PREFIXED, text, "key or token", counts)
    text = _sub(_HOOK, text, "key or token", counts)
    text = _sub(_BEARER, text, "key or token", counts)
    if "://" in text:
        text = _sub(_URL_LOGIN, text, "password", counts)
    text = _sub(_PASSWORD, text, "password", counts, _password)
    if _DIGIT.search(text):
        text = _sub(_ASSIGNED, text, "key or token", counts, lambda match: _random(match["value"]))
        if _IBAN_START.search(text):
            text = _sub(_IBAN, text, "account number", counts, lambda match: _iban(match[0]))
        text = _sub(_CARD, text, "card number", counts, lambda match: _card(match[0]))
        text = _sub(_ACCOUNT, text, "account number", counts)
        text = _sub(_SSN, text, "account number", counts)
    if not keep_contacts:
        if "@" in text:
            text = _sub(_EMAIL, text, "e-mail address", counts)
        text = scrub_phones(text, counts)
    return text


def scrub_example(example: Example, counts: Counter[str], keep_contacts: bool) -> Example:
    """The example with everything in it scrubbed: messages, tool calls, tools or text."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return scrub(value, counts, keep_contacts)
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        return value

    def clean_json(value: str) -> str:
        return json.dumps(clean(json.loads(value)), ensure_ascii=False)

    before = counts.total()
    if example.messages is None:
        made = replace(example, text=clean(example.text))
    else:
        messages = tuple((role, clean(content)) for role, content in example.messages)
        tools = clean_json(example.tools) if example.tools else None
        extras = tuple((index, clean_json(fields)) for index, fields in example.extras)
        made = replace(example, messages=messages, tools=tools, extras=extras)
    return made if counts.total() > before else example


def _sub(
    pattern: re.Pattern[str],
    text: str,
    kind: str,
    counts: Counter[str],
    accept: Callable[[re.Match[str]], bool] = lambda match: True,
) -> str:
    """Every accepted match, or its group `value`, replaced."""
    whole = "value" not in pattern.groupindex

    def placeholder(match: re.Match[str]) -> str:
        if not accept(match):
            return match[0]
        counts[kind] += 1
        if whole:
            return f"[{kind}]"
        begin, end = match.start("value") - match.start(), match.end("value") - match.start()
        return f"{match[0][:begin]}[{kind}]{match[0][end:]}"

    return pattern.sub(placeholder, text)


def _private_keys(text: str, counts: Counter[str]) -> str:
    """A block from its BEGIN to its END, or as far as a key goes where the END is missing."""
    parts: list[str] = []
    at = 0
    ends = deque(match.end() for match in _KEY_END.finditer(text))
    while begin := _KEY_BEGIN.search(text, at):
        while ends and ends[0] <= begin.end():
            ends.popleft()
        body = _KEY_BODY.match(text, begin.end())
        end = ends[0] if ends else body.end() if body else begin.end()
        parts += [text[at : begin.start()], "[private key]"]
        counts["private key"] += 1
        at = end
    return "".join([*parts, text[at:]]) if parts else text


def _password(match: re.Match[str]) -> bool:
    """After a colon or equals sign any value; after a verb only one that is no plain word."""
    value = match["value"].rstrip(".!?)")
    return len(value) >= 4 and (match["link"][0] in ":=" or _mixed(value))


def _mixed(value: str) -> bool:
    return any(letter.isdigit() for letter in value) or any(letter in "!@#$%^&*_+~" for letter in value)


def _random(value: str) -> bool:
    """True when a value after `key =` looks made by a machine: long, with digits and letters."""
    digits = sum(letter.isdigit() for letter in value)
    return digits >= 2 and any(letter.isalpha() for letter in value) and "://" not in value


def _card(text: str) -> bool:
    digits = [int(letter) for letter in text if letter.isdigit()]
    if not _CARD_START.match(text) or len(set(text) & {" ", "-"}) > 1 or len(set(digits)) == 1:
        return False
    doubled = [digit if index % 2 == 0 else sum(divmod(2 * digit, 10)) for index, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _iban(text: str) -> bool:
    compact = re.sub(r"[ -]", "", text).upper()
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1
