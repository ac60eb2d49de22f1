"""The rules of one tool call in the base's own form, as a grammar of llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from .schema_limits import Json, check_size, schema_json

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def tool_call_rules(tokenizer: TokenizerWrapper, tools: Sequence[Json], name: str | None, field: str) -> str:
    """`<tool_call>`, a line of JSON with the name and the arguments, `</tool_call>`; see `Constraints.tool_call`."""
    start, end = _markers(tokenizer)
    functions = [_function(tool, f"{field}[{number}]") for number, tool in enumerate(tools)]
    chosen = [each for each in functions if name in (None, each[0])]
    if not chosen:
        known = ", ".join(each for each, _ in functions) or None
        raise InputError("there is no such tool to call", field="tool_choice", expected=known, found=name)
    check_size({"tools": [schema for _, schema in chosen]}, field)
    calls = [_call(number, *each, field) for number, each in enumerate(chosen)]
    choice = " | ".join(f"call_{number}" for number in range(len(chosen)))
    return "\n".join(["%llguidance {}", f'start: {start} "\\n" call "\\n" {end}', f"call: {choice}", *calls])


def _call(number: int, name: str, schema: Json, field: str) -> str:
    """Each schema is a document of its own, so that its references hold."""
    opening = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
    return f'call_{number}: {json.dumps(opening, ensure_ascii=False)} %json {schema_json(schema, field, " ")} "}}"'


def _function(tool: Json, field: str) -> tuple[str, Json]:
    """The name and the schema of the arguments of a tool."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise InputError("a tool must be a function with a name", field=field)
    schema = function.get("parameters") or {}
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise InputError("the parameters of a tool must be the JSON schema of an object", field=field)
    return name, {"type": "object", **schema}


def _markers(tokenizer: TokenizerWrapper) -> tuple[str, str]:
    """The start and end of a tool call as terms of a grammar: the token where it is one, else the text."""
    form = str(getattr(tokenizer.tool_parser, "__module__", None)).rpartition(".")[2]
    if form != "json_tools":
        raise InputError(
            "this base cannot be made to call a tool"
            if tokenizer.has_tool_calling
            else "this base knows no tools: its chat template has none",
            field="tool_choice",
            expected="a base that calls tools as JSON between <tool_call> and </tool_call>",
            found=form if tokenizer.has_tool_calling else None,
            hint='use "tool_choice": "auto"' if tokenizer.has_tool_calling else "leave the tools out",
        )
    start, end = (
        (tokenizer.tool_call_start, tokenizer.tool_call_start_tokens),
        (tokenizer.tool_call_end, tokenizer.tool_call_end_tokens),
    )
    return _marker(*start), _marker(*end)


def _marker(text: str, tokens: Sequence[int]) -> str:
    return f"<[{tokens[0]}]>" if len(tokens) == 1 else json.dumps(text)
