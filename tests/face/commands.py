"""Every command of `zen` with its arguments and options."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import typer

from zen_mlx.cli.main import app


def commands() -> dict[str, Any]:
    """Words of a command -> its arguments, in order, and its options."""
    return _walk("zen", typer.main.get_command(app), None)


def _walk(words: str, command: Any, parent: Any) -> dict[str, Any]:
    context = typer.Context(command, info_name=words, parent=parent)
    parameters = command.get_params(context)
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each.param_type_name == "option"]
    found = {
        words: {
            "arguments": [{"name": each.name, **_facts(each)} for each in arguments],
            "options": [{"names": [*each.opts, *each.secondary_opts], **_facts(each)} for each in options],
        }
    }
    for name, inner in getattr(command, "commands", {}).items():
        found |= _walk(f"{words} {name}", inner, context)
    return found


def _facts(parameter: Any) -> dict[str, Any]:
    kind = parameter.type
    facts = {
        "type": kind.name,
        "default": _plain(parameter.default),
        "required": parameter.required,
        "multiple": bool(getattr(parameter, "multiple", False)) or parameter.nargs != 1,
        "is_flag": bool(getattr(parameter, "is_flag", False)),
    }
    if hasattr(kind, "choices"):
        facts["choices"] = [_plain(each) for each in kind.choices]
    for bound in ("min", "max"):
        if getattr(kind, bound, None) is not None:
            facts[bound] = getattr(kind, bound)
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
