"""Paths, strings and rows -> examples: finds the format of every file and calls the module of that origin.

A file that was named must be usable. A file found in a folder or archive that is no data is passed over, and counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..example import Example
from . import chat_text, imessage, lines, mail, slack, table, telegram, whatsapp
from .entries import Entry, folders_of, on_disk, reading, regular, zip_entries
from .named_exports import refuse_named
from .rows import parse_kind, unused_fields
from .tally import Tally

TEXT_SUFFIXES = (".txt", ".md", ".text", ".markdown")
ROW_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv")
DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
SUFFIXES = (*ROW_SUFFIXES, ".json", *TABLE_SUFFIXES, *TEXT_SUFFIXES, ".mbox", ".zip", *DATABASE_SUFFIXES)
_NOT_DATA = "a file of unknown format"

_KINDS: dict[Callable[..., object], str] = {
    lines.read_jsonl: "rows",
    lines.read_array: "rows",
    lines.read_json_row: "rows",
    lines.read_text: "text",
    chat_text.read_own_text: "text",
    table.read_table: "table",
    whatsapp.read_whatsapp: "WhatsApp",
    telegram.read_telegram: "Telegram",
    imessage.read_imessage: "iMessage",
    mail.read_mbox: "mail",
}

Reader = Callable[[Entry, Tally], Iterator[tuple[str, Example]]]


def read_all(data: Any, tally: Tally) -> Iterator[Example]:
    """Examples from paths, strings, dict rows, `Example`s, or any iterable mixing them; see `data.examples.load_examples`."""
    for index, item in enumerate([data] if isinstance(data, (str, Path, dict)) else data):
        place = f"item {index + 1}"
        if isinstance(item, Example):
            found: Iterable[tuple[str, Example]] = [("example", item)]
            place = item.source
        elif isinstance(item, Path) or (isinstance(item, str) and looks_like_path(item)):
            found = _path(Path(os.path.expanduser(item)), tally)
        elif isinstance(item, (str, dict)):
            found = [parse_kind(item, place, tally.options.columns)]
            tally.leave(unused_fields(item, next(kind for kind, _ in found), tally.options.columns), place)
        else:
            raise DataError("an example must be a string, a dict or a path", field=place, found=type(item).__name__)
        yield from (example for _, example in found)
    yield from mail.threads(tally)


def looks_like_path(item: str) -> bool:
    """True for one line that ends in a suffix we read or names something that exists."""
    if not item.strip() or "\n" in item or len(item) > 1024:
        return False
    return item.endswith(SUFFIXES) or os.path.exists(os.path.expanduser(item))


def _path(path: Path, tally: Tally) -> Iterator[tuple[str, Example]]:
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    if path.is_dir():
        yield from _folder(path, tally)
    elif not regular(path):
        raise DataError("not a regular file", path=path)
    elif path.suffix.lower() == ".zip":
        yield from _archive(path, tally)
    else:
        entry = on_disk(path)
        with reading(entry.label):
            reader = _reader(entry, tally)
        if reader is None:
            raise DataError(
                "unknown kind of data file",
                path=path,
                expected=", ".join(SUFFIXES),
                found=path.suffix.lower() or "no suffix",
            )
        yield from _counted(entry, reader, tally)


def _folder(root: Path, tally: Tally) -> Iterator[tuple[str, Example]]:
    files: list[Path] = []
    slacks: list[Path] = []
    for folder, inner, here in folders_of(root):
        if slack.is_slack([path.name for path in here], (path for each in inner for path in slack.days_in(each))):
            slacks.append(folder)
            inner.clear()
        else:
            files += [path for path in here if path.suffix.lower() in SUFFIXES or path.name == "mbox"]
    if not files and not slacks:
        raise DataError("this folder holds no data files", path=root, expected=", ".join(SUFFIXES))
    for path in sorted([*files, *slacks]):
        if path.is_dir():
            below = [(folder, each) for folder, _, here in folders_of(path) for each in here]
            entries = [on_disk(each, each.relative_to(path).parts) for _, each in below]
            yield from _slack(entries, str(path), tally)
        elif path.suffix.lower() == ".zip":
            try:
                yield from _archive(path, tally, named=False)
            except DataError as error:
                tally.refuse(error)
        else:
            yield from _entry(on_disk(path), tally)


def _archive(path: Path, tally: Tally, named: bool = True) -> Iterator[tuple[str, Example]]:
    entries = zip_entries(path)
    roots = {entry.parts[0] for entry in entries}
    if len(roots) == 1 and all(
        len(entry.parts) > 1 for entry in entries
    ):  # all in one folder, as some unpackers make it
        entries = [Entry(each.label, each.parts[1:], None, each.open) for each in entries]
    top = [entry.name for entry in entries if len(entry.parts) == 1]
    if slack.is_slack(top, (entry.name for entry in entries if len(entry.parts) == 2)):
        yield from _slack(entries, str(path), tally)
        return
    known = [entry for entry in entries if entry.suffix in SUFFIXES]
    if not known and not named:
        tally.skip(_NOT_DATA, str(path))
    elif not known:
        raise DataError("this archive holds no data files", path=path, expected=", ".join(SUFFIXES))
    for entry in known:
        yield from _entry(entry, tally)


def _slack(entries: list[Entry], label: str, tally: Tally) -> Iterator[tuple[str, Example]]:
    tally.take(label, "Slack")
    with reading(label):
        for kind, example in slack.read_slack(entries, label, tally):
            tally.read(label, kind)
            yield kind, example


def _entry(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """A file that was found, not named."""
    try:
        with reading(entry.label):
            reader = _reader(entry, tally)
            known = reader is not None and (reader is not table.read_table or table.is_data(entry, tally))
        if reader is None or not known:
            tally.skip(_NOT_DATA, entry.label)
        else:
            yield from _counted(entry, reader, tally)
    except DataError as error:
        tally.refuse(error)


def _counted(entry: Entry, reader: Reader, tally: Tally) -> Iterator[tuple[str, Example]]:
    tally.take(entry.label, _KINDS[reader])
    with reading(entry.label):
        for kind, example in reader(entry, tally):
            tally.read(entry.label, kind)
            yield kind, example


def _reader(entry: Entry, tally: Tally) -> Reader | None:
    """The reader for a file, by its suffix and its first bytes; None when it is no data."""
    suffix = entry.suffix
    if tally.is_text(entry.label):
        return lines.read_text
    refuse_named(entry)
    if suffix in ROW_SUFFIXES:
        return lines.read_jsonl
    if suffix in TABLE_SUFFIXES:
        return table.read_table
    if suffix in TEXT_SUFFIXES:
        return whatsapp.read_whatsapp if suffix == ".txt" and whatsapp.is_whatsapp(entry) else chat_text.read_own_text
    if suffix == ".json":
        shape = lines.json_shape(entry)
        readers: dict[str, Reader] = {
            "array": lines.read_array,
            "lines": lines.read_jsonl,
            "telegram": telegram.read_telegram,
            "row": lines.read_json_row,
        }
        return readers.get(shape)
    head = entry.head(16)
    if head == imessage.MAGIC:
        return imessage.read_imessage if entry.path is None or imessage.is_imessage(entry.path) else None
    if head.startswith(mail.MAGIC):
        return mail.read_mbox
    return None
