"""One row of a .jsonl, .json or table file -> an `Example`; its fields decide its kind.

messages [+ tools]               OpenAI and mlx-lm: roles system, user, assistant, tool; tool calls; weight 0: not learned
prompt, completion [+ system]    one user and one assistant turn
conversations                    ShareGPT: from human/gpt/system/..., value
instruction, output [+ input, system, history]    Alpaca
text, or a string                no template
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import TypeGuard

from ...errors import DataError
from ...fsio import Json
from ..example import Example

ROLES = ("system", "user", "assistant", "tool")
_ROLE_OF = {"developer": "system", "function": "tool"}
_SHAREGPT_ROLE = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_EXTRA_FIELDS = ("tool_calls", "tool_call_id", "name", "weight")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


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
        messages, extras = _messages(row["messages"], source)
        return "messages", Example(source, messages, tools=_tools(row, source), extras=extras)
    if "prompt" in row and "completion" in row:
        prompt, completion = (_filled(row, key, source) for key in ("prompt", "completion"))
        turns = [*_system(row, source), ("user", prompt), ("assistant", completion)]
        return "prompt/completion", Example(source, tuple(turns))
    if "conversations" in row or "conversation" in row:
        key = "conversations" if "conversations" in row else "conversation"
        return "ShareGPT", _sharegpt(row, key, source)
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


def is_text(value: object) -> TypeGuard[str]:
    """True for a string that can be written as UTF-8: JSON can spell half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def field_names(row: Mapping[str, object]) -> str:
    """The keys of a row where they look like field names; a key may be content too."""
    keys = sorted(key if isinstance(key, str) and _FIELD.fullmatch(key) else "..." for key in row)
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


def _messages(value: object, source: str) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[int, str], ...]]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # as a table keeps them
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = []
    if not isinstance(value, list) or not value:
        raise DataError("messages must be a non-empty list", path=source, field="messages", found=type(value).__name__)
    turns, extras = [], []
    for index, message in enumerate(value):
        field = f"messages[{index}]"
        if not isinstance(message, dict):
            raise DataError("a message must be an object", path=source, field=field, found=type(message).__name__)
        role = message.get("role")
        role = _ROLE_OF.get(role, role) if isinstance(role, str) else None
        if role not in ROLES:
            raise DataError("unknown role", path=source, field=f"{field}.role", expected=", ".join(ROLES))
        extra = _extra(message, role, source, field)
        calls = "tool_calls" in extra
        content = _content(message.get("content"), source, f"{field}.content", empty=calls)
        if not is_text(content) or (role == "assistant" and not content.strip() and not calls):
            raise DataError(
                "content must be a string of valid Unicode, and not empty for an assistant",
                path=source,
                field=f"{field}.content",
            )
        turns.append((role, content))
        if extra:
            extras.append((index, _canonical(extra, source, field)))
    if not any(role == "assistant" for role, _ in turns):
        raise DataError("no assistant turn to learn from", path=source, field="messages")
    silent = {index for index, fields in extras if json.loads(fields).get("weight") == 0}
    if all(role != "assistant" or index in silent for index, (role, _) in enumerate(turns)):
        raise DataError("every assistant turn has weight 0", path=source, field="messages")
    return tuple(turns), tuple(extras)


def _content(value: object, source: str, field: str, empty: bool) -> object:
    """The text of a content: a string, or a list of parts of type text."""
    if value is None and empty:
        return ""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        if any(part.get("type") != "text" for part in value):
            raise DataError("only text can be trained on, not images or audio", path=source, field=field)
        if all(is_text(part.get("text")) for part in value):
            return "".join(part["text"] for part in value)
    return value


def _extra(message: Json, role: str, source: str, field: str) -> Json:
    extra = {key: message[key] for key in _EXTRA_FIELDS if message.get(key) not in (None, [])}
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        extra["tool_calls"] = [{"type": "function", "function": legacy}]
    if role != "assistant":
        extra.pop("tool_calls", None)
        extra.pop("weight", None)
    if extra.get("weight") == 1:
        del extra["weight"]
    if extra.get("weight", 0) != 0:
        raise DataError("a weight must be 0 or 1", path=source, field=f"{field}.weight")
    calls = extra.get("tool_calls", [])
    if not isinstance(calls, list) or not all(
        isinstance(call, dict)
        and isinstance(call.get("function"), dict)
        and isinstance(call["function"].get("name"), str)
        for call in calls
    ):
        raise DataError("a tool call needs a function with a name", path=source, field=f"{field}.tool_calls")
    if calls:
        extra["tool_calls"] = [_call(call) for call in calls]
    return extra


def _call(call: Json) -> Json:
    """The call with its arguments as an object, which templates print; OpenAI keeps them as a string of JSON."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        with contextlib.suppress(ValueError):
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def _tools(row: Json, source: str) -> str | None:
    tools = row.get("tools") or None
    if isinstance(tools, str):  # mlx-lm's and hub data sets keep them as a string of JSON
        try:
            tools = json.loads(tools) or None
        except (ValueError, RecursionError):
            tools = 0
    if tools is None and isinstance(row.get("functions"), list) and row["functions"]:
        tools = [{"type": "function", "function": function} for function in row["functions"]]
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools must be a list of objects", path=source, field="tools")
    return _canonical(tools, source, "tools")


def _canonical(value: object, source: str, field: str) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not is_text(text):
        raise DataError("not valid Unicode", path=source, field=field)
    return text


def _sharegpt(row: Json, key: str, source: str) -> Example:
    value = row[key]
    if not isinstance(value, list) or not value:
        raise DataError("conversations must be a non-empty list", path=source, field=key, found=type(value).__name__)
    turns: list[tuple[str, str]] = _system(row, source)
    extras: list[tuple[int, str]] = []
    for index, message in enumerate(value):
        field = f"{key}[{index}]"
        if not isinstance(message, dict):
            raise DataError("a message must be an object", path=source, field=field, found=type(message).__name__)
        said, content = message.get("from", message.get("role")), message.get("value", message.get("content"))
        if not is_text(content):
            raise DataError("value must be a string of valid Unicode", path=source, field=f"{field}.value")
        if said == "function_call":
            extras.append((len(turns), _spoken_call(content, source, field)))
            turns.append(("assistant", ""))
            continue
        role = _SHAREGPT_ROLE.get(said) if isinstance(said, str) else None
        if role is None:
            raise DataError("unknown role", path=source, field=f"{field}.from", expected=", ".join(_SHAREGPT_ROLE))
        if role == "assistant" and not any(before != "system" for before, _ in turns):
            continue  # an answer to nothing: such data is cut out of longer conversations
        if role == "assistant" and not content.strip():
            raise DataError("an assistant's value is empty", path=source, field=f"{field}.value")
        if turns and turns[-1][0] == role and role in ("user", "assistant") and turns[-1][1]:
            turns[-1] = (role, f"{turns[-1][1]}\n{content}")
        else:
            turns.append((role, content))
    if not any(role == "assistant" for role, _ in turns):
        raise DataError("no assistant turn to learn from", path=source, field=key)
    return Example(source, tuple(turns), tools=_tools(row, source), extras=tuple(extras))


def _spoken_call(content: str, source: str, field: str) -> str:
    try:
        function = json.loads(content)
    except (ValueError, RecursionError):
        function = None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError("a tool call needs a function with a name", path=source, field=field)
    return _canonical({"tool_calls": [_call({"type": "function", "function": function})]}, source, field)


def _alpaca(row: Json, source: str) -> Example:
    turns = _system(row, source)
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(is_text(x) and x.strip() for x in pair):
            raise DataError("history must be pairs of non-empty strings", path=source, field="history")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    more = row.get("input")
    if more is not None and not is_text(more):
        raise DataError("input must be a string of valid Unicode", path=source, field="input")
    wanted = _filled(row, "instruction", source)
    if more and more.strip():
        wanted = f"{wanted}\n\n{more}"
    answer = _filled(row, "output" if "output" in row else "response", source)
    return Example(source, (*turns, ("user", wanted), ("assistant", answer)))
