"""The keys of JSON documents and the types of their values, with no value in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

ROOT = "(document)"
ABSENT = "absent"
"""Stands among the types of a key that some of the objects do not have."""
_TYPES = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    type(None): "null",
    list: "array",
    dict: "object",
}


class Shape:
    """path -> types, over any number of documents. Paths are as in `results[].loss`; `*` stands for keys that are data.

    data_keys: paths of the objects whose keys are data, such as file names.
    """

    def __init__(self, data_keys: Collection[str] = ()) -> None:
        self._data_keys = data_keys
        self._types: dict[str, set[str]] = {}
        self._objects: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._owner: dict[str, str] = {}

    def add(self, value: Any, path: str = ROOT) -> None:
        """Take note of a document."""
        self._types.setdefault(path, set()).add(_TYPES[type(value)])
        inside = "" if path == ROOT else path
        if isinstance(value, list):
            for each in value:
                self.add(each, f"{inside}[]")
        elif isinstance(value, dict):
            self._objects[path] += 1
            for key, each in value.items():
                inner = "*" if path in self._data_keys else "over_*" if key.startswith("over_") else key
                inner = f"{inside}.{inner}" if inside else inner
                self._owner[inner] = path
                self._seen[inner] += 1
                self.add(each, inner)

    def allow(self, path: str, types: Collection[str]) -> None:
        """Take note of types that were not seen, but are on other machines."""
        self._types.setdefault(path, set()).update(types)

    def types(self) -> dict[str, str]:
        """path -> the types seen there, such as `null | number`."""
        found = {path: set(types) for path, types in self._types.items()}
        for path, owner in self._owner.items():
            if not path.endswith("*") and self._seen[path] < self._objects[owner]:
                found[path].add(ABSENT)
        return {path: " | ".join(sorted(types)) for path, types in sorted(found.items())}


def shape(*documents: Any, data_keys: Collection[str] = ()) -> dict[str, str]:
    """The types of `documents` together."""
    found = Shape(data_keys)
    for document in documents:
        found.add(document)
    return found.types()
