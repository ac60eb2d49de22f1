"""What a face lacks of another: additions are welcome, anything else is a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .shape import ABSENT

_OPTIONAL = {"null", ABSENT}


def losses(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """A sentence for everything of `recorded` that `present` has no longer, or has otherwise."""
    found = []
    for part, (differ, what) in _PARTS.items():
        for name, before in recorded.get(part, {}).items():
            if name in present[part]:
                found += differ(f"{what} {name}", before, present[part][name])
            else:
                found.append(f"{what} {name} is gone")
    for command in recorded.get("chat_commands", ()):
        if command not in present["chat_commands"]:
            found.append(f"{command} in a chat is gone")
    return found


def _command(name: str, before: Any, now: Any) -> Iterator[str]:
    for index, argument in enumerate(before["arguments"]):
        if index < len(now["arguments"]):
            yield from _parameter(f"{name}: argument {argument['name']}", argument, now["arguments"][index])
        else:
            yield f"{name}: argument {argument['name']} is gone"
    for argument in now["arguments"][len(before["arguments"]) :]:
        if argument["required"]:
            yield f"{name}: argument {argument['name']} is new and required"
    kept = []
    for option in before["options"]:
        owners = [each for each in now["options"] if set(each["names"]) & set(option["names"])]
        for gone in sorted(set(option["names"]) - {one for owner in owners for one in owner["names"]}):
            yield f"{name}: option {gone} is gone"
        if len(owners) > 1:
            yield f"{name}: {' and '.join(option['names'])} are no longer one option"
        for owner in owners:
            yield from _parameter(f"{name}: option {option['names'][0]}", option, owner)
        kept += owners
    for option in now["options"]:
        if option["required"] and option not in kept:
            yield f"{name}: option {option['names'][0]} is new and required"


def _parameter(name: str, before: Any, now: Any) -> Iterator[str]:
    """An argument or option: what was typed before must mean the same."""
    for fact in ("type", "default", "multiple", "is_flag", "min", "max"):
        if before.get(fact) != now.get(fact):
            yield f"{name}: {fact} was {before.get(fact)!r} and is {now.get(fact)!r}"
    if now["required"] and not before["required"]:
        yield f"{name} is required now"
    for choice in before.get("choices", ()):
        if choice not in now.get("choices", ()):
            yield f"{name}: choice {choice} is gone"


def _types(name: str, before: Any, now: Any) -> Iterator[str]:
    """A reader copes with null, or with no key at all, only where it met that before. Of null alone the type is open."""
    for path, types in before.items():
        if path not in now:
            yield f"{name}: key {path} is gone"
            continue
        old, new = set(types.split(" | ")), set(now[path].split(" | "))
        if "null" in old <= _OPTIONAL:
            new &= _OPTIONAL
        if new - old or old - new - _OPTIONAL:
            yield f"{name}: the type of {path} was {types} and is {now[path]}"


def _named(name: str, before: Any, now: Any) -> Iterator[str]:
    """A Python name."""
    if before["kind"] != now["kind"]:
        yield f"{name} was a {before['kind']} and is a {now['kind']}"
    if before.get("exit_code") != now.get("exit_code"):
        yield f"{name}: its exit code was {before.get('exit_code')} and is {now.get('exit_code')}"
    for base in before.get("bases", ()):
        if base not in now["bases"]:
            yield f"{name} is no longer a {base}"
    if "parameters" in before:
        yield from _signature(name, before["parameters"], now.get("parameters", []))
    for attribute, fact in before.get("attributes", {}).items():
        if attribute in now.get("attributes", {}):
            yield from _named(f"{name}: its {attribute}", fact, now["attributes"][attribute])
        else:
            yield f"{name}: its {attribute} is gone"


def _signature(name: str, before: Any, now: Any) -> Iterator[str]:
    by_name = {each["name"]: each for each in now}
    old = {each["name"] for each in before}
    places = [each["name"] for each in before if each["kind"].startswith("positional")]
    if [each["name"] for each in now if each["kind"].startswith("positional")][: len(places)] != places:
        yield f"{name}: its parameters by position began with {', '.join(places)}"
    for each in before:
        other = by_name.get(each["name"])
        if other is None:
            yield f"{name}: parameter {each['name']} is gone"
            continue
        if each["kind"] != other["kind"]:
            yield f"{name}: parameter {each['name']} was {each['kind']} and is {other['kind']}"
        if "default" in each and each["default"] != other.get("default"):
            yield f"{name}: the default of {each['name']} was {each['default']} and is {other.get('default', 'gone')}"
    for each in now:
        if each["name"] not in old and "default" not in each and not each["kind"].startswith("var_"):
            yield f"{name}: parameter {each['name']} is new and required"


def _values(name: str, before: Any, now: Any) -> Iterator[str]:
    for key, value in before.items():
        if key not in now:
            yield f"{name}: {key} is gone"
        elif now[key] != value:
            yield f"{name}: {key} was {value!r} and is {now[key]!r}"


def _same(name: str, before: Any, now: Any) -> Iterator[str]:
    if before != now:
        yield f"{name} was {before!r} and is {now!r}"


_PARTS: dict[str, tuple[Callable[[str, Any, Any], Iterator[str]], str]] = {
    "commands": (_command, "command"),
    "documents": (_types, "document"),
    "files": (_types, "file"),
    "errors": (_named, "error"),
    "exit_codes": (_same, "exit code of"),
    "variables": (_values, "environment variable"),
    "python": (_named, "Python name"),
    "keywords": (_values, "keywords of"),
}
