"""Scrub secrets and contacts: neutral placeholders take their place, with counts by kind and never a value.

Keys and tokens by the form their makers gave them; passwords by the name, command or address they stand in (`secrets`);
cards and accounts by check digits and by the word before them; phone numbers by `phonenumbers`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from dataclasses import replace
from typing import Any

from ..example import Example
from .phones import scrub_phones
from .secrets.accounts import scrub_accounts
from .secrets.command_lines import scrub_command_lines
from .secrets.named_values import scrub_named_values
from .secrets.placeholders import substitute
from .secrets.service_tokens import scrub_service_tokens

_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"(?:[A-Za-z0-9+/=]{16,}|[A-Za-z-]+: [^\n]*|\s+|\\n)*")
_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_DIGIT = re.compile(r"\d")  # cheap looks before the dear ones


def scrub(text: str, counts: Counter[str], keep_contacts: bool) -> str:
    """`text` with placeholders for what is secret; how many of each kind are added to `counts`."""
    text = _private_keys(text, counts)
    text = scrub_service_tokens(text, counts)
    text = scrub_command_lines(text, counts)
    text = scrub_named_values(text, counts)
    if _DIGIT.search(text):
        text = scrub_accounts(text, counts)
    if not keep_contacts:
        if "@" in text:
            text = substitute(_EMAIL, text, "e-mail address", counts)
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
