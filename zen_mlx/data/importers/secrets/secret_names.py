"""Names that say that their value is secret, wherever in a longer name: `DB_PASSWORD`, `smtpPassword`, `Passwort`, `apiKey`.

A name is found by its word in the lowered text: `password` in all languages of `password_words`, `secret`, `token`, `key`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .password_words import WORDS

_WEAK = frozenset(
    ["pass", "pwd", "pw", "pin", "psk", "clave", "parola", "parole", "sandi", "geslo", "heslo", "hasło", "haslo"]
)
_KEYS = ("secret", "token", "key", "apikey", "credential", "credentials")
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_ENGLISH = "passwd,passphrase,pass phrase,passcode,pass code,pass,pwd,pw,p/w,pin,psk"
_MISTYPED = "passwrd,passowrd,pswd,pswrd,psword,psswd,psswrd,pssword,paswd,paswrd,pasword"


def _bare(word: str) -> str:
    """The word as it is typed without its accents."""
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))


def _trie(words: Iterable[str]) -> str:
    """One expression for all words, longest first, without a second look at a common beginning."""
    heads: dict[str, list[str]] = {}
    for word in words:
        if word:
            heads.setdefault(word[0], []).append(word[1:])
    branches = [
        re.escape(head) + _trie(tails) + ("?" if "" in tails and any(tails) else "") for head, tails in heads.items()
    ]
    return f"(?:{'|'.join(branches)})" if branches else ""


_PASSWORDS = {word for words in WORDS.values() for word in words} | {*_ENGLISH.split(","), *_MISTYPED.split(",")}
_PASSWORDS |= {_bare(word).replace("ı", "i") for word in _PASSWORDS if word.isascii() or re.search(r"[a-z]", word)}
_ASCII_NAME = re.compile(_trie({word for word in _PASSWORDS if word.isascii()} | set(_KEYS)))
_NAME = re.compile(_trie(_PASSWORDS | set(_KEYS)))

_SUFFIX = re.compile(
    r"""(?:[_.-]?(?:\d{1,3}|old|new|prod(?:uction)?|dev|test|staging|live|root|admin|user|db|value|val|plain|text|string
    |confirm(?:ation)?|again|repeat|default|hash|enc(?:rypted|oded)?|base64|secret|key|token|access|id|code|nr|primary|secondary|env|s)
    (?![a-z])|(?:access|secret|api)(?=key|token)|-?(?:code|nummer|number)){0,4}""",
    re.VERBOSE,
)
_INFLECTED = re.compile(r"[^\W\d_]{1,3}(?!\w)")
_QUALIFIED = re.compile(
    r"(?:api|access|secret|private|auth|client|account|encryption|signing|sign|master|shared|app|application|consumer|deploy|bot|refresh"
    r"|session|webhook|bearer|oauth2?|storage|service|subscription|aes|hmac|jwt|cookie|server|admin|user|personal|security|license"
    r"|ssh|aws|gh|github|gitlab|slack|npm|stripe|openai|anthropic|hf|azure|google|csrf|id|registration|recovery)[\s_.-]?$"
)
_COMPOUND = re.compile(
    r"(?:db|my|user|root|admin|smtp|imap|ftp|sql|mysql|pg|ssh|vnc|wifi|wlan|mail|ldap|redis|http|proxy|store|trust|app|web|auth|client|key|login|svc|data)$"
)


@dataclass(frozen=True)
class Name:
    """A word that names a secret, where it stands, and what stands before it."""

    word: str
    begin: int
    end: int
    before: str
    tight: bool  # part of an identifier or option, as in a configuration or command

    @property
    def is_key(self) -> bool:
        return self.word in _KEYS

    @property
    def weak(self) -> bool:
        if not self.is_key:
            return self.word in _WEAK and not self.tight
        return self.word in ("key", "token") and not _QUALIFIED.search(self.before)


def find_names(text: str) -> Iterator[Name]:
    """The names in `text`, in order."""
    low = _lowered(text)
    for match in (_ASCII_NAME if text.isascii() else _NAME).finditer(low):
        if name := _name(text, low, match):
            yield name


def _lowered(text: str) -> str:
    """In lower case, each letter still at its place."""
    low = text.lower()
    return (
        low
        if len(low) == len(text)
        else "".join(each if len(each := letter.lower()) == 1 else letter for letter in text)
    )


def _name(text: str, low: str, match: re.Match[str]) -> Name | None:
    """The name, when its word begins where a word may: after a mark, a capital, or a known first half."""
    begin, word = match.start(), match[0]
    before = low[max(0, begin - 40) : begin]
    joined = begin > 0 and (low[begin - 1].isalnum() and not _UNSPACED.match(word))
    camel = joined and text[begin].isupper() and not text[begin - 1].isupper()
    if joined and not camel and not (word not in _WEAK and len(word) >= 6) and not _COMPOUND.search(before):
        return None
    suffix = _SUFFIX.match(low, match.end())
    end = suffix.end() if suffix else match.end()
    if word not in _WEAK and not _UNSPACED.match(word) and (inflected := _INFLECTED.match(low, end)):
        end = inflected.end()
    shouted = text[begin:end].isupper() and text[begin:end].lower() not in _WEAK
    tight = joined or (begin > 0 and low[begin - 1] in "_-.$") or shouted
    return Name(word, begin, end, before, tight)
