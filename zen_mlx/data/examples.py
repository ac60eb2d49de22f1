"""What people have (files, rows, strings) -> conversations and texts, each knowing where it came from.

Knows nothing about tokens. A row is one of

    {"messages": [{"role": "system"|"user"|"assistant"|"tool", "content": str}, ...]}   at least one assistant turn
    {"prompt": str, "completion": str}                                                   one user and one assistant turn
    {"text": str}                                                                        no template
    a plain string, or a plain text file (.txt, .md)                                     no template
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import DataError

TEXT_SUFFIXES = (".txt", ".md", ".text")
ROW_SUFFIXES = (".jsonl", ".ndjson")
ROLES = ("system", "user", "assistant", "tool")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True)
class Example:
    """A conversation (`messages`) or a text without template (`text`); `source` is `file:line`, never content."""

    source: str
    messages: tuple[tuple[str, str], ...] | None = None
    text: str | None = None

    def digest(self) -> bytes:
        """SHA-256 of the content: the identity of a row wherever it lies."""
        content = [list(turn) for turn in self.messages] if self.messages is not None else self.text
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).digest()


def load_examples(data: Any) -> list[Example]:
    """Examples from paths (files or folders), strings, dict rows, or any iterable mixing them.

    A `Path` is a file or folder; a `str` is a path when such a path exists or it looks like one (one line ending in a
    known suffix), else a text. Raises `DataError` naming file and line; nothing is skipped silently.
    """
    if isinstance(data, (str, Path, dict)):
        data = [data]
    examples: list[Example] = []
    for index, item in enumerate(data):
        if isinstance(item, Example):
            examples.append(item)
        elif isinstance(item, Path) or (isinstance(item, str) and _looks_like_path(item)):
            for path in _files(Path(os.path.expanduser(item))):
                examples.extend(_read_file(path))
        elif isinstance(item, (str, dict)):
            examples.append(parse_row(item, f"item {index + 1}"))
        else:
            raise DataError(
                "an example must be a string, a dict or a path", field=f"item {index + 1}", found=type(item).__name__
            )
    if not examples:
        raise DataError("there is nothing to read: no rows were found")
    return examples


def load_files(paths: Iterable[str | Path]) -> list[Example]:
    """`load_examples` for a command line, where every argument is a path and a missing one is an error."""
    return load_examples([Path(path) for path in paths])


def parse_row(row: Any, source: str) -> Example:
    """One row as an `Example`; raises `DataError` naming `source` and the field, never the content."""
    if isinstance(row, str):
        return _text(row, source)
    if not isinstance(row, dict):
        raise DataError("a row must be a JSON object", path=source, expected="object", found=type(row).__name__)
    if "messages" in row:
        return Example(source, messages=_messages(row["messages"], source))
    if "prompt" in row and "completion" in row:
        for key in ("prompt", "completion"):
            if not _is_text(row[key]) or not row[key].strip():
                raise DataError(f"{key} must be a non-empty string of valid Unicode", path=source, field=key)
        return Example(source, messages=(("user", row["prompt"]), ("assistant", row["completion"])))
    if "text" in row:
        return _text(row["text"], source)
    raise DataError(
        "this row has no field that can be trained on",
        path=source,
        expected="messages, prompt and completion, or text",
        found=_keys(row),
    )


def data_digest(examples: Iterable[Example]) -> str:
    """Hex SHA-256 over the rows' content digests in order: which data, without any of it."""
    total = hashlib.sha256()
    for example in examples:
        total.update(example.digest())
    return total.hexdigest()


def split_held_out(examples: list[Example], *, most: int = 50) -> tuple[list[Example], list[Example]]:
    """(train, held out): fewer than 40 rows hold out none; else the last 5 % by hash of content, at most `most`.

    By content, so the same row is on the same side whatever the order of the files, and a repeated row never leaks.
    """
    if len(examples) < 40:
        return list(examples), []
    count = min(most, max(1, len(examples) // 20))
    held_digests = set(sorted(example.digest() for example in examples)[-count:])
    train = [example for example in examples if example.digest() not in held_digests]
    held: dict[bytes, Example] = {}
    for example in examples:
        if example.digest() in held_digests:
            held.setdefault(example.digest(), example)
    if not train:
        return list(examples), []
    return train, list(held.values())


def _looks_like_path(item: str) -> bool:
    if not item.strip() or "\n" in item or len(item) > 1024:
        return False
    return item.endswith(TEXT_SUFFIXES + ROW_SUFFIXES + (".json",)) or os.path.exists(os.path.expanduser(item))


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    if not path.is_dir():
        return [path]
    files = sorted(
        entry
        for entry in path.rglob("*")
        if entry.is_file() and entry.suffix.lower() in TEXT_SUFFIXES + ROW_SUFFIXES and not entry.name.startswith(".")
    )
    if not files:
        raise DataError("this folder holds no data files", path=path, expected=", ".join(ROW_SUFFIXES + TEXT_SUFFIXES))
    return files


def _read_file(path: Path) -> list[Example]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", path=path, field=f"byte {error.start}") from error
    except OSError as error:
        raise DataError("cannot be read", path=path, found=error.strerror) from error
    suffix = path.suffix.lower()
    if suffix in ROW_SUFFIXES:
        rows = []
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                source = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:  # the parser's own message may quote the line
                    raise DataError("not valid JSON", path=source, found=_json_fault(error)) from None
                rows.append(parse_row(row, source))
        if not rows:
            raise DataError("the file has no rows", path=path)
        return rows
    if suffix in TEXT_SUFFIXES:
        return [_text(content, str(path))]
    raise DataError(
        "unknown kind of data file",
        path=path,
        expected=", ".join(ROW_SUFFIXES + TEXT_SUFFIXES),
        found=suffix or "no suffix",
    )


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "too deeply nested" if isinstance(error, RecursionError) else "a number too long to read"


def _is_text(value: Any) -> TypeGuard[str]:
    """True for a string that can be written as UTF-8: JSON can spell half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _keys(row: dict[Any, Any]) -> str:
    """The keys of a row where they look like field names; a key may be content too."""
    keys = sorted(key if isinstance(key, str) and _FIELD.fullmatch(key) else "..." for key in row)
    return ", ".join(dict.fromkeys(keys[:12])) or "an empty object"


def _text(value: Any, source: str) -> Example:
    if not _is_text(value) or not value.strip():
        raise DataError("text must be a non-empty string of valid Unicode", path=source, field="text")
    return Example(source, text=value)


def _messages(value: Any, source: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise DataError("messages must be a non-empty list", path=source, field="messages", found=type(value).__name__)
    turns = []
    for index, message in enumerate(value):
        field = f"messages[{index}]"
        if not isinstance(message, dict):
            raise DataError("a message must be an object", path=source, field=field, found=type(message).__name__)
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError("unknown role", path=source, field=f"{field}.role", expected=", ".join(ROLES))
        if not _is_text(content) or (role == "assistant" and not content.strip()):
            raise DataError(
                "content must be a string of valid Unicode, and an assistant's not empty",
                path=source,
                field=f"{field}.content",
            )
        turns.append((role, content))
    if not any(role == "assistant" for role, _ in turns):
        raise DataError("no assistant turn to learn from", path=source, field="messages")
    return tuple(turns)
