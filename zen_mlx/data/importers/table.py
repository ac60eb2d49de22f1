"""Rows of .csv and .tsv files: a header, then one row per record, its fields named by the header or by a column map.

A map with sender and message makes a chat of the rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime

from ...errors import DataError
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry
from .lines import row_of, undecodable
from .rows import field_names
from .tally import Tally

_MOST_FIELD_CHARS = 16 * 2**20
_KNOWN = (
    {"messages"},
    {"prompt", "completion"},
    {"conversations"},
    {"instruction", "output"},
    {"instruction", "response"},
    {"text"},
)


def is_data(entry: Entry, tally: Tally) -> bool:
    """True when the header names something to learn from."""
    header = next(_records(entry), None)
    return header is not None and _named(header[1], tally) is not None


def _named(names: list[str], tally: Tally) -> bool | None:
    """True: the column map names columns of this table; False: the header needs none; None: nothing to learn from."""
    columns = tally.options.columns
    if columns and set(columns.values()) <= set(names):
        return True
    return False if any(need <= set(names) for need in _KNOWN) else None


def read_table(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """Every record as a row; `DataError` when the header and the column map name nothing to learn from."""
    columns = tally.options.columns
    records = _records(entry)
    header = next(records, None)
    if header is None:
        raise DataError("the file has no rows", path=entry.label)
    names = header[1]
    mapped = _named(names, tally)
    if mapped is None:
        raise DataError(
            "no known column",
            path=entry.label,
            field="columns",
            expected=", ".join(columns.values())
            if columns
            else "prompt and completion, instruction and output, or text",
            found=field_names(dict.fromkeys(names)),
            hint="--columns prompt=COLUMN,completion=COLUMN says which is which",
        )
    rows = _rows(entry, names, records, tally)
    if mapped and "sender" in columns:
        yield from (("table of messages", each) for each in _chat(entry, rows, tally))
        return
    for source, row in rows:
        for _, example in row_of(row, source, tally):
            yield "table", example


def _records(entry: Entry) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every record, the header first."""
    csv.field_size_limit(_MOST_FIELD_CHARS)
    with entry.open_text() as probe:
        delimiter = "\t" if entry.suffix == ".tsv" else _delimiter(probe.readline(65536))
    with entry.open_text() as handle:
        handle.reconfigure(newline="")
        reader = csv.reader(handle, delimiter=delimiter)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                raise DataError("the table cannot be read", path=f"{entry.label}:{line}") from None
            if any(field.strip() for field in fields):
                yield line, fields


def _rows(
    entry: Entry, names: list[str], records: Iterator[tuple[int, list[str]]], tally: Tally
) -> Iterator[tuple[str, dict[str, str]]]:
    for line, fields in records:
        source = f"{entry.label}:{line}"
        if len(fields) != len(names):
            tally.refuse(
                DataError(
                    "the number of fields differs from the header's",
                    path=source,
                    expected=len(names),
                    found=len(fields),
                )
            )
        elif any(undecodable(field) for field in fields):
            tally.refuse(DataError("not UTF-8 text", path=source))
        else:
            yield source, dict(zip(names, fields, strict=True))


def _delimiter(header: str) -> str:
    counts = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in (",", ";", "\t", "|")}
    return max(counts, key=lambda mark: counts[mark])


def _chat(entry: Entry, rows: Iterator[tuple[str, dict[str, str]]], tally: Tally) -> Iterator[Example]:
    columns = tally.options.columns
    chats: dict[str, list[Message]] = {}
    for source, row in rows:
        sender, text = row[columns["sender"]].strip(), row[columns["message"]]
        if not sender or not text.strip():
            tally.skip("a message without sender or text", source)
            continue
        at = _time(row[columns["time"]]) if "time" in columns else None
        chat = row[columns["conversation"]] if "conversation" in columns else ""
        chats.setdefault(chat, []).append(Message(sender, text, at, source))
    for name, messages in chats.items():
        if all(message.at is not None for message in messages):
            messages.sort(key=lambda message: message.at or 0.0)
        yield from conversations(messages, f"{entry.label}:{name}", tally)


def _time(text: str) -> float | None:
    """Seconds since 1970 of an ISO time or a number of seconds or milliseconds."""
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return number / 1000 if number > 1e11 else number
