"""Functions that the model may call: into the chat template, and out of the answer through mlx-lm's parsers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .reading import CALL, Span
from .wire import FunctionSpec

AUTO, NONE, REQUIRED = "auto", "none", "required"


@dataclass(frozen=True)
class Call:
    """One call. id: the model's own, where its format has one. arguments: the text of a JSON object."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True)
class Tools:
    """What may be called. choice: AUTO, or REQUIRED, where the answer is exactly one call of one of `functions`."""

    functions: Sequence[FunctionSpec]
    choice: str = AUTO

    @property
    def forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.choice == REQUIRED

    def for_template(self) -> list[dict[str, Any]]:
        """As chat templates and mlx-lm's parsers know them."""
        return [{"type": "function", "function": _spec(function)} for function in self.functions]


def choose(functions: Sequence[FunctionSpec], choice: str, name: str | None = None) -> Tools | None:
    """The tools of a request; None where nothing may be called. name: the one that must be called.

    InputError for two of one name, for a choice of none that exist, and for `strict` where nothing can ensure it.
    """
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise InputError("two tools have the same name", field="tools")
    if name is not None and name not in names:
        raise InputError("tool_choice names a function that is not among the tools", field="tool_choice")
    if choice == REQUIRED and not functions:
        raise InputError("tool_choice wants a call, and there are no functions to call", field="tool_choice")
    if choice == NONE or not functions:
        return None
    if choice == AUTO and any(function.strict for function in functions):
        raise InputError(
            "the arguments of a strict function are ensured only where a call is certain",
            field="tools",
            hint='set tool_choice to "required" or to a function, or strict to false',
        )
    return Tools([each for each in functions if name in (None, each.name)], choice)


def check_template(tokenizer: Any) -> None:
    """InputError for a base whose chat template knows no tools."""
    template = getattr(tokenizer, "chat_template", None)
    if not tokenizer.has_tool_calling or (isinstance(template, str) and "tools" not in template):
        raise InputError(
            "this model's chat template knows no tools, so it cannot call functions",
            field="tools",
            hint="leave the tools out, or serve a base that was trained to use tools",
        )


def call_span(tokenizer: Any) -> Span:
    """What stands around a call in this model's answers."""
    return Span(CALL, tokenizer.tool_call_start, tokenizer.tool_call_end)


def parse(tokenizer: Any, tools: Tools, text: str) -> list[Call]:
    """The calls in what stood between the markers; none where it is not a call after all."""
    try:
        parsed = tokenizer.tool_parser(text, tools.for_template())
        return [_call(each) for each in (parsed if isinstance(parsed, list) else [parsed])]
    except Exception:  # a parser of a model's own format raises whatever it likes at text that is not in it
        return []


def _spec(function: FunctionSpec) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        spec["description"] = function.description
    spec["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return spec


def _call(parsed: dict[str, Any]) -> Call:
    arguments = parsed["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict) or not isinstance(parsed["name"], str):
        raise ValueError
    identity = parsed.get("id")
    text = json.dumps(arguments, ensure_ascii=False)
    return Call(parsed["name"], text, identity if isinstance(identity, str) else None)
