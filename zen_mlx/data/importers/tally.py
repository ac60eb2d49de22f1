"""Counts of what was read, left out and scrubbed, with reasons and sources; never values."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError
from ...events import Reason

_INVISIBLE = dict.fromkeys([*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF])
_SHOWN = 20


@dataclass(frozen=True)
class ImportOptions:
    """How data becomes examples.

    me: who is learned from, under every name they have. columns: our field -> theirs. row_chars: a longer chat goes on
    in the next row. as_text: files that are learned as texts, whatever they look like.
    """

    me: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    keep_contacts: bool = False
    row_chars: int = 3072
    as_text: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        me: str | Sequence[str] | None = None,
        columns: str | Mapping[str, str] | None = None,
        keep_contacts: bool = False,
        row_chars: int = 3072,
        as_text: Sequence[str | os.PathLike[str]] | None = None,
    ) -> ImportOptions:
        """From what a caller gives: one name or several, a map or its text `prompt=question,completion=answer`."""
        names = (me,) if isinstance(me, str) else tuple(me or ())
        if any(not plain_name(name) for name in names):
            raise DataError("a name is empty", field="me")
        if columns is None or isinstance(columns, str):
            columns = parse_columns(columns) if columns else {}
        texts = tuple(os.path.abspath(os.path.expanduser(path)) for path in as_text or ())
        return cls(names, check_columns(columns), keep_contacts, row_chars, texts)


COLUMNS = ("prompt", "completion", "system", "text", "messages", "sender", "message", "time", "conversation")


def parse_columns(text: str) -> dict[str, str]:
    """`prompt=question,completion=answer` as {"prompt": "question", "completion": "answer"}."""
    columns: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = part.partition("=")
        if not equals or not ours.strip() or not theirs.strip() or ours.strip() in columns:
            raise DataError(
                "the column map cannot be read", field="columns", expected="prompt=COLUMN,completion=COLUMN", found=text
            )
        columns[ours.strip()] = theirs.strip()
    return columns


def check_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """`columns` when every field of ours in it is one we have and they make a row together."""
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise DataError("unknown field in a column map", field="columns", expected=", ".join(COLUMNS), found=unknown[0])
    given = set(columns)
    if given and not any(
        need <= given for need in ({"prompt", "completion"}, {"text"}, {"messages"}, {"sender", "message"})
    ):
        raise DataError(
            "the column map is incomplete",
            field="columns",
            expected="prompt and completion, text, messages, or sender and message",
            found=", ".join(sorted(given)),
        )
    return dict(columns)


def plain_name(name: str) -> str:
    """`name` as it is compared: no case, no invisible marks, no tilde of an unsaved contact."""
    text = unicodedata.normalize("NFKC", name).translate(_INVISIBLE)
    return " ".join(text.casefold().split()).removeprefix("~").strip()


class Tally:
    """Follows one import. strict: the first row that cannot be used raises, instead of being counted."""

    def __init__(self, options: ImportOptions, strict: bool) -> None:
        self.options = options
        self.strict = strict
        self.files: dict[str, Counter[str]] = {}
        self.kinds: dict[str, str] = {}  # of every file, what it was taken for
        self.refused: dict[str, Reason] = {}
        self.skipped: dict[str, Reason] = {}
        self.unused: dict[str, Reason] = {}
        self.scrubbed: Counter[str] = Counter()
        self.duplicates = Reason()
        self.notes: list[str] = []
        self.mails: list[Any] = []  # of every mailbox, until their threads are put together
        self.senders: Counter[str] = Counter()  # of chats in which nobody is known to be the one to learn from
        self.chats = self.chats_of_me = 0
        self.first_fault: DataError | None = None
        self._texts = dict.fromkeys(options.as_text, False)  # True once such a file was met
        self._me = {plain_name(name) for name in options.me}

    def refuse(self, error: DataError) -> None:
        """A row or file that should have been usable: raise, or count."""
        if self.strict:
            raise error
        self.first_fault = self.first_fault or error
        reason = (
            error.message
            if error.field is None or error.field.startswith("messages[")
            else f"{error.message} ({error.field})"
        )
        self.refused.setdefault(reason, Reason()).add(error.path or "?")

    def skip(self, reason: str, place: str) -> None:
        """Something that nobody expects to be learned from."""
        self.skipped.setdefault(reason, Reason()).add(place)

    def leave(self, fields: Iterable[str], place: str) -> None:
        """Fields of a row that hold something and are not used."""
        for name in fields:
            self.unused.setdefault(name, Reason()).add(place)

    def is_me(self, names: Iterable[str]) -> bool:
        """True when one of `names` is the person to learn from."""
        return any(plain_name(name) in self._me for name in names)

    def read(self, label: str, kind: str) -> None:
        """One example of `kind` came from file `label`."""
        self.files.setdefault(label, Counter())[kind] += 1

    def take(self, label: str, kind: str) -> None:
        """File `label` is read as `kind`, whether or not an example comes of it."""
        self.kinds[label] = kind

    def is_text(self, label: str) -> bool:
        """True when file `label` is to be learned as a text, whatever it looks like."""
        path = os.path.abspath(label)
        if path in self._texts:
            self._texts[path] = True
        return path in self._texts

    def check_senders(self) -> None:
        """Raise when it is not known who the person to learn from is, or a file to be read as a text was not met."""
        for path, met in self._texts.items():
            if not met:
                raise DataError("no file of the data has this name", path=path, field="as_text")
        if self.options.me:
            if not self.chats_of_me:
                raise self._nobody()
        elif self.senders:
            raise DataError(
                "say which sender is you",
                field="me",
                expected=f"one of: {self._listing()}",
                hint="--me NAME: training learns that sender's messages",
            )

    def _nobody(self) -> DataError:
        kinds = [f"{label}: {kind}" for label, kind in list(self.kinds.items())[:_SHOWN]]
        more = [f"and {len(self.kinds) - _SHOWN} more"] if len(self.kinds) > _SHOWN else []
        return DataError(
            "no sender has this name",
            field="me",
            expected=f"one of: {self._listing()}" if self.senders else "a chat or a mailbox in the data",
            found=", ".join(self.options.me),
            hint="the files were taken for: " + ("; ".join([*kinds, *more]) or "nothing"),
        )

    def _listing(self) -> str:
        found = [name for name, _ in self.senders.most_common(_SHOWN)]
        return ", ".join(found) + (f" and {len(self.senders) - _SHOWN} more" if len(self.senders) > _SHOWN else "")
