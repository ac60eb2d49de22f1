"""What a JSON schema may cost: bounds on its size, checked before it is written as JSON for llguidance.

llguidance bounds its own work by fuel, but not everywhere: `multipleOf` and patterns that must hold together are multiplied
out, and a chain of references is followed by recursion. Within these bounds a schema compiles in 0.1 s, at worst 0.2 s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ..errors import InputError

MOST_BYTES = 64 * 1024
MOST_DEPTH = 64
MOST_VALUES = 2500
MOST_OBJECTS = 600
MOST_EXPRESSIONS = 150
MOST_PATTERN_NAMES = 50
MOST_LEVELS = 640  # about 5 KiB of stack each
MOST_TOGETHER = 10  # patterns whose automata are multiplied: time doubles with each
MOST_MULTIPLE = 10_000  # states of the automaton of one multipleOf
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
_BESIDE = _ANNOTATIONS | {"nullable", "$comment", "$id", "$schema", "$defs", "definitions"}
_EXPRESSIONS = {"pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_STRICT = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}

Json = Mapping[str, Any]


@dataclass
class _Count:
    """What is counted in a schema; depth: of nested objects and arrays."""

    values: int = 0
    objects: int = 0
    depth: int = 0
    expressions: int = 0
    pattern_names: int = 0
    together: bool = False
    references: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    multiples: set[Decimal] = field(default_factory=set)

    def add(self, schema: Json) -> None:
        """Count one object. A property may be called `pattern`, so it may count one too many."""
        self.objects += 1
        self.expressions += bool(_EXPRESSIONS.intersection(schema))
        self.together |= _holds_together(schema)
        for name, kept in (("$ref", self.references), ("pattern", self.patterns), ("format", self.patterns)):
            if isinstance(value := schema.get(name), str):
                kept.add(value)
        if isinstance(names := schema.get("patternProperties"), Mapping):
            self.pattern_names += len(names)
        multiple = schema.get("multipleOf")
        if isinstance(multiple, (int, float)) and not isinstance(multiple, bool) and math.isfinite(multiple):
            self.multiples.add(abs(Decimal(str(multiple))))

    def multiple(self) -> int:
        """Number of states that the multiples take; all of them together where they may have to hold together."""
        scale = max((-int(each.normalize().as_tuple().exponent) for each in self.multiples), default=0)
        steps = [max(1, int(each.scaleb(max(0, scale)))) for each in self.multiples]
        return math.lcm(*steps) if self.together else sum(steps)


def schema_json(schema: Json, field: str, space: str = "") -> str:
    """The schema as JSON for llguidance, with our options in place of any that it brings.

    space: what answers have after each comma and colon. InputError, of `field`, for one that is not within the bounds.
    """
    if not isinstance(schema, Mapping):
        raise InputError("the JSON schema must be an object", field=field, found=type(schema).__name__)
    check_size(schema, field)
    options = {**_STRICT, "item_separator": f",{space}", "key_separator": f":{space}"}
    try:
        return json.dumps({**schema, "x-guidance": options}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the JSON schema cannot be written as JSON: {error}", field=field) from error


def check_size(schema: Json, field: str) -> None:
    """InputError, of `field`, for a schema that could cost too much. Its JSON may be large, but must fit in memory."""
    count = _Count()
    for value, depth in _walk(schema):
        count.values += 1
        count.depth = max(count.depth, depth)
        if isinstance(value, Mapping):
            count.add(value)
        if count.values > MOST_VALUES or count.depth > MOST_DEPTH:
            break
    for noun, found, most in _bounds(count):
        if found > most:
            raise too_large(field, noun, most, found)


def too_large(field: str, noun: str, most: int, found: int | str) -> InputError:
    """The error for `found` where at most `most` are allowed of what `noun` names."""
    return InputError(
        "the JSON schema is too large",
        field=field,
        expected=f"at most {most} {noun}",
        found=found,
        hint="ask for less in one answer, or leave the finest constraints out and check them afterwards",
    )


def _bounds(count: _Count) -> list[tuple[str, int, int]]:
    patterns = len(count.patterns) if count.together else 0
    return [
        ("values, nested ones included", count.values, MOST_VALUES),
        ("levels of nesting", count.depth, MOST_DEPTH),
        ("objects", count.objects, MOST_OBJECTS),
        ("values with a pattern, format or range", count.expressions, MOST_EXPRESSIONS),
        ("patternProperties", count.pattern_names, MOST_PATTERN_NAMES),
        ("levels of nesting times references", count.depth * (1 + len(count.references)), MOST_LEVELS),
        ("patterns and formats in a schema that combines schemas", patterns, MOST_TOGETHER),
        ("steps of multipleOf, taken together", count.multiple(), MOST_MULTIPLE),
    ]


def _holds_together(schema: Json) -> bool:
    """Whether a value may have to fit several schemas at once."""
    combining = {"anyOf", "oneOf", "$ref"}.intersection(schema)
    constraints_beside = set(schema) - _BESIDE - combining
    several = {"allOf", "patternProperties"}.intersection(schema) or len(combining) > 1
    return bool(several or (combining and constraints_beside))


def _walk(schema: Json) -> Iterator[tuple[Any, int]]:
    """Every value in `schema` with its depth, the schema itself at depth 1. Not recursive: nesting may be deep."""
    rest: list[tuple[Any, int]] = [(schema, 1)]
    while rest:
        value, depth = rest.pop()
        yield value, depth
        if isinstance(value, Mapping):
            rest.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, Sequence) and not isinstance(value, str):
            rest.extend((each, depth + 1) for each in value)
