"""Lists of turns in rows, OpenAI's and ShareGPT's -> messages with their extras: tool calls, thoughts, weights."""

from __future__ import annotations

import contextlib
import json
from typing import NamedTuple, TypeGuard

from ...errors import DataError
from ...fsio import Json

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
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_EXTRA_FIELDS = ("tool_calls", "tool_call_id", "name", "weight")
TURN_FIELDS = frozenset(("role", "from", "content", "value", "function_call", *_EXTRA_FIELDS, *_THOUGHTS))
"""The fields of a turn that are read; any other one is told."""


class Turns(NamedTuple):
    """messages: (role, content); extras: (index of a message, its other fields as JSON), as in `Example`."""

    messages: tuple[tuple[str, str], ...]
    extras: tuple[tuple[int, str], ...] = ()


def is_text(value: object) -> TypeGuard[str]:
    """True for a string that can be written as UTF-8: JSON can spell half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def as_list(value: object) -> object:
    """A list that a table keeps as JSON, as a list; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return []


def read_messages(value: object, source: str) -> Turns:
    """OpenAI's list of messages."""
    value = as_list(value)
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
    return _learnable(Turns(tuple(turns), tuple(extras)), source, "messages")


def read_prompt_completion(prompt: object, completion: object, source: str) -> Turns:
    """TRL's lists in `prompt` and `completion`: only the turns of the completion are learned, as TRL does."""
    before, after = (_listed(value, role) for value, role in ((prompt, "user"), (completion, "assistant")))
    for name, turns in (("prompt", before), ("completion", after)):
        if turns is None:
            raise DataError(f"{name} must be a string or a list of messages", path=source, field=name)
    silent = [
        {**each, "weight": 0} if isinstance(each, dict) and each.get("role") == "assistant" else each
        for each in before or []
    ]
    return read_messages([*silent, *(after or [])], source)


def _listed(value: object, role: str) -> list[object] | None:
    value = as_list(value)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return value if isinstance(value, list) else None


def read_sharegpt(value: object, system: list[tuple[str, str]], key: str, source: str) -> Turns:
    """ShareGPT's list of turns, behind `system`; turns in a row from one side become one."""
    if not isinstance(value, list) or not value:
        raise DataError("conversations must be a non-empty list", path=source, field=key, found=type(value).__name__)
    turns: list[tuple[str, str]] = list(system)
    extras: dict[int, str] = {}
    for index, message in enumerate(value):
        field = f"{key}[{index}]"
        if not isinstance(message, dict):
            raise DataError("a message must be an object", path=source, field=field, found=type(message).__name__)
        said, content = message.get("from", message.get("role")), message.get("value", message.get("content"))
        if content is None and message.get("tool_calls"):
            content = ""
        if not is_text(content):
            raise DataError("value must be a string of valid Unicode", path=source, field=f"{field}.value")
        if said == "function_call":
            calls = {"tool_calls": _spoken_calls(content, source, field), "weight": message.get("weight")}
            extras[len(turns)] = _canonical(_extra(calls, "assistant", source, field), source, field)
            turns.append(("assistant", ""))
            continue
        role = _SHAREGPT_ROLE.get(said) if isinstance(said, str) else None
        if role is None:
            raise DataError("unknown role", path=source, field=f"{field}.from", expected=", ".join(_SHAREGPT_ROLE))
        if role == "assistant" and not any(before != "system" for before, _ in turns):
            continue  # an answer to nothing: such data is cut out of longer conversations
        extra = _extra(message, role, source, field)
        if role == "assistant" and not content.strip() and "tool_calls" not in extra:
            raise DataError("an assistant's value is empty", path=source, field=f"{field}.value")
        last = len(turns) - 1
        joins = role in ("user", "assistant") and last >= 0 and turns[last][0] == role and turns[last][1]
        if joins and not extra and last not in extras:
            turns[last] = (role, f"{turns[last][1]}\n{content}")
            continue
        if extra:
            extras[len(turns)] = _canonical(extra, source, field)
        turns.append((role, content))
    return _learnable(Turns(tuple(turns), tuple(extras.items())), source, key)


def _learnable(turns: Turns, source: str, field: str) -> Turns:
    """The turns, if one of them is to be learned."""
    if not any(role == "assistant" for role, _ in turns.messages):
        raise DataError("no assistant turn to learn from", path=source, field=field)
    silent = {index for index, fields in turns.extras if json.loads(fields).get("weight") == 0}
    if all(role != "assistant" or index in silent for index, (role, _) in enumerate(turns.messages)):
        raise DataError("every assistant turn has weight 0", path=source, field=field)
    return turns


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
    else:
        extra.update(_thoughts(message, source, field))
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


def _thoughts(message: Json, source: str, field: str) -> Json:
    """What an assistant thought before it spoke, under one name, whichever its row has."""
    name = next((name for name in _THOUGHTS if message.get(name) not in (None, "")), None)
    if name is None:
        return {}
    if not is_text(message[name]):
        raise DataError("thoughts must be a string of valid Unicode", path=source, field=f"{field}.{name}")
    return {"reasoning_content": message[name]}


def _call(call: Json) -> Json:
    """The call with its arguments as an object, which templates print; OpenAI keeps them as a string of JSON."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        with contextlib.suppress(ValueError):
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def read_tools(row: Json, source: str) -> str | None:
    """The tools on offer in a row, as JSON."""
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


def _spoken_calls(content: str, source: str, field: str) -> list[Json]:
    """The calls of a ShareGPT `function_call` turn: a call as JSON, or a list of them."""
    try:
        spoken = json.loads(content)
    except (ValueError, RecursionError):
        spoken = None
    calls = spoken if isinstance(spoken, list) else [spoken]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise DataError("a tool call needs a function with a name", path=source, field=field)
    return [{"type": "function", "function": call} for call in calls]
