"""Public Python names, the errors, and the environment variables that are read."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zen_mlx
import zen_mlx.errors

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_KEPT = ("args", "add_note", "with_traceback")  # every exception has them


def public(known: Iterable[str]) -> dict[str, Any]:
    """Dotted name -> its kind, parameters and attributes: `__all__`, what README and docs print, and `known`."""
    names = {f"zen_mlx.{name}" for name in zen_mlx.__all__} | set(printed()) | set(known)
    return {name: described(value) for name in sorted(names) if (value := _resolved(name)) is not None}


def errors(exit_codes: Mapping[str, int]) -> dict[str, Any]:
    """Class -> its bases, its exit code on the command line, its attributes and parameters."""
    return {
        cls.__name__: {
            "bases": [base.__name__ for base in cls.__mro__[1:] if base is not object],
            "exit_code": exit_codes[cls.__name__],
            **described(cls),
        }
        for cls in error_classes()
    }


def error_classes() -> list[type[zen_mlx.errors.ZenError]]:
    """Every error class, the root first."""
    found = [value for value in vars(zen_mlx.errors).values() if inspect.isclass(value)]
    return [value for value in found if issubclass(value, zen_mlx.errors.ZenError)]


def described(value: Any) -> dict[str, Any]:
    """What a caller relies on: kind, parameters, and for a class its public attributes."""
    found: dict[str, Any] = {"kind": "class" if inspect.isclass(value) else "function" if callable(value) else "value"}
    if callable(value):
        found["parameters"] = _parameters(value)
    if inspect.isclass(value):
        found["attributes"] = dict(_attributes(value))
    return found


def variables() -> dict[str, Any]:
    """Name of a `ZEN_` variable in the package's source -> whether a line reads it from the environment."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "zen_mlx").rglob("*.py")))
    found = sorted(set(re.findall(r"\b_?ZEN_[A-Z][A-Z_]*", text)))
    read = re.compile(r"environ(?:\.get\(|\[)\s*\"(\w+)\"|getenv\(\s*\"(\w+)\"|\"(\w+)\" (?:not )?in os\.environ")
    names = {name for groups in read.findall(text) for name in groups if name}
    return {name: {"read": name in names} for name in found}


def printed() -> Iterator[str]:
    """Dotted names that README.md and docs/*.md print, in Python snippets and in running text."""
    for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            for node in ast.walk(ast.parse(snippet)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "zen_mlx":
                    yield from (f"{node.module}.{each.name}" for each in node.names)
        yield from (name for name in re.findall(r"`(zen_mlx(?:\.\w+)+)", text) if not name.endswith(".py"))


def _resolved(name: str) -> Any:
    """What a dotted name stands for; None for nothing, and for a module."""
    home, _, last = name.rpartition(".")
    try:
        value = getattr(importlib.import_module(home), last)
    except (ImportError, AttributeError):
        return None
    return None if inspect.ismodule(value) else value


def _parameters(value: Any) -> list[dict[str, Any]]:
    found = []
    for each in inspect.signature(value).parameters.values():
        fact = {"name": each.name, "kind": each.kind.name.lower()}
        found.append(fact if each.default is each.empty else {**fact, "default": repr(each.default)})
    return found


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """Public attributes of the class and of an instance made without a word more than it needs."""
    for name in sorted(set(dir(cls)) - set(_KEPT)):
        value = inspect.getattr_static(cls, name)
        if name.startswith("_"):
            continue
        if inspect.isfunction(value):
            bound = getattr(cls, name)
            yield name, {"kind": "method", "parameters": _parameters(bound)[1:]}
        else:
            yield name, {"kind": "property" if isinstance(value, property) else "attribute"}
    instance = cls("text") if issubclass(cls, Exception) else cls()
    for name in sorted(vars(instance)):
        if not name.startswith("_"):
            yield name, {"kind": "attribute"}
