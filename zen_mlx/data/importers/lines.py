"""Rows of .jsonl and .json files, lines of text files, and whole texts: one row or line in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import ijson

from ...errors import DataError
from ..example import Example
from .entries import Entry, reading
from .rows import json_fault, parse_kind, unused_fields
from .tally import Tally

MOST_ROW_CHARS = 64 * 2**20
MOST_DEPTH = 200
_ROW_KEYS = ("messages", "conversations", "prompt", "instruction", "text")
JSON_FAULTS = (ijson.JSONError, ValueError, RecursionError, OverflowError, ArithmeticError)


def numbered_lines(entry: Entry) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end); a line that is not UTF-8 keeps its bytes as surrogates."""
    with entry.open_text() as handle:
        number = 0
        while line := handle.readline(MOST_ROW_CHARS):
            number += 1
            if len(line) == MOST_ROW_CHARS and not line.endswith("\n"):
                raise DataError(
                    "a line is too long", path=f"{entry.label}:{number}", expected=f"{MOST_ROW_CHARS} characters"
                )
            yield number, line.removesuffix("\n")


def undecodable(line: str) -> bool:
    """True when the bytes of `line` were not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in line)


def read_jsonl(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """Every line is a row; each row says by its fields which format it has."""
    empty = True
    for number, line in numbered_lines(entry):
        if not line.strip():
            continue
        empty = False
        source = f"{entry.label}:{number}"
        if undecodable(line):
            tally.refuse(DataError("not UTF-8 text", path=source))
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # the parser's own message may quote the line
            row = DataError("not valid JSON", path=source, found=json_fault(error))
        if isinstance(row, DataError):
            tally.refuse(row)  # outside the handler, or its traceback would quote the line
            continue
        yield from row_of(row, source, tally)
    if empty:
        raise DataError("the file has no rows", path=entry.label)


def row_of(row: object, source: str, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The row as an example, or nothing when it is refused and that is counted."""
    try:
        kind, example = parse_kind(row, source, tally.options.columns)
    except DataError as error:
        tally.refuse(error)
        return
    tally.leave(unused_fields(row, kind, tally.options.columns), source)
    yield kind, example


def read_array(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """A .json file that is one array of rows."""
    number = 0
    with entry.open() as handle:
        rows = ijson.items(json_events(handle), "item")
        while True:
            try:
                row = next(rows, _END)
            except JSON_FAULTS:  # the parser's own message quotes the place
                raise DataError("not valid JSON", path=f"{entry.label}:row {number + 1}") from None
            if row is _END:
                break
            number += 1
            yield from row_of(row, f"{entry.label}:row {number}", tally)
    if not number:
        raise DataError("the file has no rows", path=entry.label)


_END = object()


def json_events(handle: IO[bytes]) -> Iterator[tuple[str, str, Any]]:
    """(prefix, event, value) of a JSON text, not deep enough to do harm: a prefix is as long as its place is deep."""

    def shallow() -> Iterator[tuple[str, Any]]:
        depth = 0
        for event, value in ijson.basic_parse(handle, use_float=True):
            if event.startswith("start_"):
                depth += 1
                if depth > MOST_DEPTH:
                    raise ijson.JSONError("too deeply nested")
            elif event.startswith("end_"):
                depth -= 1
            yield event, value

    events: Iterator[tuple[str, str, Any]] = ijson.parse(shallow())
    return events


def json_shape(entry: Entry) -> str:
    """What a .json file is: "array", "lines" (rows in lines after all), "telegram", "row" or "other"."""
    with reading(entry.label), entry.open_text() as handle:
        first = handle.readline(MOST_ROW_CHARS)
        while first and not first.strip():
            first = handle.readline(MOST_ROW_CHARS)
        rest = handle.read(4096).strip()
    start = first.lstrip()[:1]
    if start == "[":
        return "array"
    if start != "{":
        return "other"
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and rest:
        return "lines"
    keys = list(row) if isinstance(row, dict) else _top_keys(entry)
    if "chats" in keys or "personal_information" in keys or {"type", "id", "messages"} <= set(keys):
        return "telegram"
    return "row" if any(key in keys for key in _ROW_KEYS) else "other"


def _top_keys(entry: Entry) -> list[str]:
    """The keys of a JSON object, as many as come before `messages` or `chats`."""
    keys: list[str] = []
    try:
        with entry.open() as handle:
            for prefix, event, value in json_events(handle):
                if prefix == "" and event == "map_key":
                    keys.append(value)
                    if value in ("messages", "chats") or len(keys) > 1000:
                        break
    except JSON_FAULTS:
        pass
    return keys


def read_json_row(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """A .json file that is one row."""
    try:
        row = json.loads(entry.whole().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", path=entry.label, field=f"byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise DataError("not valid JSON", path=entry.label, found=json_fault(error)) from None
    yield from row_of(row, entry.label, tally)


def read_text(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """The whole file is one text."""
    content = entry.whole()
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", path=entry.label, field=f"byte {error.start}") from error
    yield from row_of(text.replace("\r\n", "\n").replace("\r", "\n"), entry.label, tally)
