"""One row of a .jsonl, .json or table file -> an `Example`; its fields decide its kind.

messages [+ tools]               OpenAI and mlx-lm: also tool calls, thoughts, and weight 0: not learned
prompt, completion [+ system]    one user and one assistant turn, or TRL's lists of messages
conversations                    ShareGPT: from human/gpt/system/..., value
instruction, output [+ input, system, history]    Alpaca; Dolly's context and response
text, or a string                no template
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ...errors import DataError
from ...fsio import Json
from ..example import Example
from .turns import (
    TURN_FIELDS,
    Turns,
    as_list,
    read_messages,
    read_prompt_completion,
    read_sharegpt,
    read_tools,
)
from .turns import is_text as is_text

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_EMPTY: tuple[object, ...] = (None, "", [], {})
_READ = {
    "messages": ("messages", "tools", "functions"),
    "prompt/completion": ("prompt", "completion", "system", "tools", "functions"),
    "ShareGPT": ("conversations", "conversation", "system", "tools", "functions"),
    "Alpaca": ("instruction", "input", "context", "output", "response", "system", "history"),
    "text": ("text",),
}
"""The fields that each kind of row is read from."""


def parse_row(row: object, source: str, columns: Mapping[str, str] | None = None) -> Example:
    """One row as an `Example`; raises `DataError` naming `source` and the field, never the content."""
    return parse_kind(row, source, columns)[1]


def parse_kind(row: object, source: str, columns: Mapping[str, str] | None = None) -> tuple[str, Example]:
    """(the name of the row's format, the row as an `Example`)."""
    if isinstance(row, str):
        return "text", _text(row, source)
    if not isinstance(row, dict):
        raise DataError("a row must be a JSON object", path=source, expected="object", found=type(row).__name__)
    if columns and all(theirs in row for theirs in columns.values()):
        row = {ours: row[theirs] for ours, theirs in columns.items()}
    try:
        return _parse(row, source)
    except RecursionError:
        raise DataError("too deeply nested", path=source) from None


def _parse(row: Json, source: str) -> tuple[str, Example]:
    if "messages" in row:
        return "messages", _example(row, read_messages(row["messages"], source), source)
    if "prompt" in row and "completion" in row:
        return "prompt/completion", _prompt_completion(row, source)
    if "conversations" in row or "conversation" in row:
        key = "conversations" if "conversations" in row else "conversation"
        return "ShareGPT", _example(row, read_sharegpt(row[key], _system(row, source), key, source), source)
    if "instruction" in row and ("output" in row or "response" in row):
        return "Alpaca", _alpaca(row, source)
    if "text" in row:
        return "text", _text(row["text"], source)
    raise DataError(
        "this row has no field that can be trained on",
        path=source,
        expected="messages, prompt and completion, conversations, instruction and output, or text",
        found=field_names(row),
    )


def _example(row: Json, turns: Turns, source: str) -> Example:
    return Example(source, turns.messages, tools=read_tools(row, source), extras=turns.extras)


def _prompt_completion(row: Json, source: str) -> Example:
    system = _system(row, source)
    prompt, completion = as_list(row["prompt"]), as_list(row["completion"])
    if not isinstance(prompt, list) and not isinstance(completion, list):
        prompt, completion = (_filled(row, key, source) for key in ("prompt", "completion"))
        return _example(row, Turns((*system, ("user", prompt), ("assistant", completion))), source)
    turns = read_prompt_completion(prompt, completion, source)
    behind = tuple((index + len(system), fields) for index, fields in turns.extras)
    return _example(row, Turns((*system, *turns.messages), behind), source)


def unused_fields(row: object, kind: str, columns: Mapping[str, str] | None = None) -> list[str]:
    """Names of the fields of a row of `kind` that hold something and are not read; a name may be content: "..." then."""
    if not isinstance(row, dict):
        return []
    mapped = bool(columns) and all(theirs in row for theirs in (columns or {}).values())
    read = set((columns or {}).values()) if mapped else {*_READ[kind]}
    names = [_plain(key) for key, value in row.items() if key not in read and value not in _EMPTY]
    for key in ("messages", "conversations", "conversation", "prompt", "completion"):
        turns = as_list(row[key]) if key in read and key in row else None
        for turn in turns if isinstance(turns, list) else []:
            if isinstance(turn, dict):
                names += [
                    f"{key}.{_plain(name)}"
                    for name, value in turn.items()
                    if name not in TURN_FIELDS and value not in _EMPTY
                ]
    return sorted(set(names))


def _plain(key: object) -> str:
    """A key where it looks like a field name; it may be content too."""
    return key if isinstance(key, str) and _FIELD.fullmatch(key) else "..."


def field_names(row: Mapping[str, object]) -> str:
    """The keys of a row where they look like field names; a key may be content too."""
    keys = sorted(_plain(key) for key in row)
    return ", ".join(dict.fromkeys(keys[:12])) or "an empty object"


def json_fault(error: Exception) -> str:
    """What is wrong with a JSON text, without quoting it."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "too deeply nested" if isinstance(error, RecursionError) else "a number too long to read"


def _text(value: object, source: str) -> Example:
    if not is_text(value) or not value.strip():
        raise DataError("text must be a non-empty string of valid Unicode", path=source, field="text")
    return Example(source, text=value)


def _filled(row: Mapping[str, object], key: str, source: str) -> str:
    value = row[key]
    if not is_text(value) or not value.strip():
        raise DataError(f"{key} must be a non-empty string of valid Unicode", path=source, field=key)
    return value


def _system(row: Mapping[str, object], source: str) -> list[tuple[str, str]]:
    value = row.get("system")
    if value is None or value == "":
        return []
    return [("system", _filled(row, "system", source))]


def _alpaca(row: Json, source: str) -> Example:
    turns = _system(row, source)
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(is_text(x) and x.strip() for x in pair):
            raise DataError("history must be pairs of non-empty strings", path=source, field="history")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    wanted = _filled(row, "instruction", source)
    for name in ("input", "context"):
        more = row.get(name)
        if more is not None and not is_text(more):
            raise DataError(f"{name} must be a string of valid Unicode", path=source, field=name)
        if more and more.strip():
            wanted = f"{wanted}\n\n{more}"
    answer = _filled(row, "output" if "output" in row else "response", source)
    return Example(source, (*turns, ("user", wanted), ("assistant", answer)))
