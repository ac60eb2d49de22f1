"""A name, a link and a value: are they a secret, or a sentence or code about one?"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from . import values
from .secret_names import Name

_UNLIKE = re.compile(
    r"(?:public|primary|foreign|cache|sort|partition|row|max|min|next|page|pad|eos|bos|unk|num|hot|short|translation|publishable)[\s_.-]?$"
)
_LOGIN_BEFORE = re.compile(
    r"\b(?:user(?:name)?|login|e?mail|account|id|benutzer|usuario|utilisateur|utente|host|server|wi-?fi|wlan)\b"
)
_TAG = re.compile(r"<(?:[\w:.-]{0,40}|(?i:[\w:.-]{0,20}(?:pass|pw|secret|token|key)[\w:.-]{0,20})\s[^<>]{1,80})$")
_OPTION = re.compile(r"(?:^|[\s\"'])--?[\w-]{0,40}$|(?:^|\s)/[a-z]{0,20}$")
_MORE_WORDS = re.compile(r"(?:[ ][^\W\d_]+){3}(?![:=\w])")
_DIGITS = ("pin", "passcode", "pass code")


@dataclass(frozen=True)
class Finding:
    """What was found in `text`: `link` is the match that leads from the name to text[begin:end]."""

    text: str
    name: Name
    link: re.Match[str]
    begin: int
    end: int

    def is_secret(self) -> bool:
        """True when the value is one for this name, as the link says it."""
        name, value = self.name, self.value
        if name.is_key and name.weak and not values.is_made(value, 12):
            return False
        if self.merely_follows() and value.isalpha() and not _OPTION.search(name.before):
            return False
        if values.is_reference(value) or values.is_said(value, not self.sure) or self.goes_on():
            return False
        for group, judged in _JUDGES.items():
            if self.groups.get(group):
                return judged(self)
        return len(value) >= 6 and values.is_mixed(value) and (self.has_letter or name.word == "pin")

    @cached_property
    def groups(self) -> dict[str, str | None]:
        return self.link.groupdict()

    @cached_property
    def value(self) -> str:
        return self.text[self.begin : self.end]

    @cached_property
    def quoted(self) -> bool:
        return bool(self.link["open"]) and self.following(1) in tuple("\\\"'`“”»」")

    @property
    def sure(self) -> bool:
        """Written as a setting, not as a sentence."""
        return self.quoted or self.name.tight or self.text[self.begin - 1] == "="

    @property
    def has_letter(self) -> bool:
        return any(map(str.isalpha, self.value))

    @property
    def has_both(self) -> bool:
        """Long enough for a password, with letters and digits, and no date, size or file."""
        return (
            len(self.value) >= 6
            and self.has_letter
            and any(map(str.isdigit, self.value))
            and values.is_mixed(self.value)
        )

    def following(self, count: int) -> str:
        return self.text[self.end : self.end + count]

    def merely_follows(self) -> bool:
        """True when nothing but a space, or some words, leads to the value, and no quotes are around it."""
        return not self.link["open"] and (bool(self.groups.get("gap")) or "gap" not in self.groups)

    def goes_on(self) -> bool:
        """True when what follows shows that the value is a piece of code or the first word of a sentence."""
        value = self.value
        if self.quoted:
            return value != value.strip()
        if value.lower() in ("b", "r", "f", "u") and self.following(1) in ("'", '"'):
            return True
        if value.isdigit() and len(value) < (2 if self.name.tight else 3):
            return True
        return values.is_word(value) and (self.following(3) == " = " or self.in_sentence())

    def in_sentence(self) -> bool:
        """True for a plain word with plain words after it, where no login is told."""
        if self.name.is_key:
            return self.text[self.begin - 1] == " " and re.match(r"[ ]\w", self.following(2)) is not None
        if self.name.tight or self.told_with_login():
            return False
        return _MORE_WORDS.match(self.text, self.end, self.end + 120) is not None

    def told_with_login(self) -> bool:
        return _LOGIN_BEFORE.search(self.name.before) is not None

    def in_element(self) -> bool:
        at = self.name.begin
        return _TAG.search(self.text, max(0, at - 120), at) is not None and self.as_setting()

    def alone_on_line(self) -> bool:
        lone = self.following(1) in ("", "\n", "\r") and "=" not in self.value
        return lone and not self.name.weak and values.is_mixed(self.value)

    def as_setting(self) -> bool:
        return self.fits(sure=True)

    def after_sign(self) -> bool:
        if self.link["sign"][:2] in ("==", "!="):
            return self.as_setting() if self.quoted else self.text[self.begin - 1] == "=" and self.has_both
        if not self.quoted and self.name.weak and self.begins_words():
            return False
        return self.fits(sure=self.sure or self.link["close"][:1] in ("\\", '"', "'"))

    def after_particle(self) -> bool:
        return self.value.isascii() and not (self.name.weak and self.begins_words()) and self.fits(sure=False)

    def begins_words(self) -> bool:
        more = re.match(r"[ ]+[^\W\d_]", self.following(8)) is not None
        return more and values.is_word(self.value) and not self.told_with_login()

    def in_brackets(self) -> bool:
        """`setPassword("...")`, `("password", "...")`, `PW(...)`."""
        opened = self.link["call"].strip() == "("
        if not self.quoted:
            return opened and self.following(1) == ")" and not self.name.is_key and self.has_both
        if self.name.is_key and not values.is_made(self.value, 8):
            return False
        known = values.is_mixed(self.value) or (opened and not self.name.before.endswith(("get", "get_")))
        return known and len(self.value) > 3 and self.as_setting() and not re.match(r"\\?[\"']\s?:", self.following(4))

    def after_verb(self) -> bool:
        if ":" in self.link[0]:
            return self.fits(sure=False)
        if self.name.is_key:
            return values.is_made(self.value, 16 if self.name.weak else 8)
        return len(self.value) >= 4 and (self.quoted or values.is_mixed(self.value))

    def after_space(self) -> bool:
        """The value of an option, one in quotes, or one that is no word."""
        name, value, near = self.name, self.value, self.link["gap"].isspace()
        if near and value[0] != "-" and _OPTION.search(name.before):
            return self.as_setting()
        if name.is_key:
            return near and values.is_made(value, 16 if name.weak else 12)
        if self.quoted and self.text[name.begin : name.end].isupper():
            return len(value) >= 3
        if name.word in _DIGITS and value.isdigit() and near:
            return 4 <= len(value) <= 8
        return self.has_both and (name.word != "pass" or self.told_with_login())

    def fits(self, sure: bool) -> bool:
        """True when the value is long and odd enough for the name. sure: it is written as a setting."""
        name, value = self.name, self.value
        if name.is_key:
            return self.fits_key(sure)
        if name.word == "pin":
            return 4 <= len(value) <= 12 and values.is_mixed(value)
        if name.word in ("pwd", "pass") and (value[0] in "/~" or value[1:3] == ":\\"):
            return False
        if name.weak:
            return len(value) >= 4 and (values.is_mixed(value) or self.is_login(sure))
        return len(value) >= (1 if sure else 3)

    def fits_key(self, sure: bool) -> bool:
        value = self.value
        if _UNLIKE.search(self.name.before):
            return False
        if self.name.weak:
            return values.is_made(value, 12)
        plain = sure and len(value) >= 6 and " " not in value and not values.is_number(value)
        return plain or values.is_made(value, 8)

    def is_login(self, sure: bool) -> bool:
        """A plain word after `pass` and the like, where a login is told or nothing stands before."""
        near = sure or self.told_with_login() or not re.search(r"\w[ ]$", self.name.before)
        return near and values.is_word(self.value)


_JUDGES: dict[str, Callable[[Finding], bool]] = {
    "xml": Finding.in_element,
    "line": Finding.alone_on_line,
    "sign": Finding.after_sign,
    "attribute": Finding.as_setting,
    "dash": lambda found: found.has_both,
    "cjk": Finding.after_particle,
    "call": Finding.in_brackets,
    "verb": Finding.after_verb,
    "gap": Finding.after_space,
}
"""Group of the link that matched -> what decides about the value; the first counts."""
