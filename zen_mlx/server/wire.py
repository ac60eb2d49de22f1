"""Request bodies: every field is honoured, ignored by name, or refused; no field is ignored silently.

Ignored: the answer is the same without it. Refused: the answer would differ, and the server cannot make it. A refused
field is accepted with the values under which it asks for nothing. Anything else is unknown, and a 400 names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

Neutral = tuple[Any, ...]


class Wire(BaseModel):
    """A JSON object with no fields but the declared ones; numbers and strings are not converted into each other."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Body(Wire):
    """A request's body. ignored: fields that change no answer. refused: field -> values that ask for nothing."""

    ignored: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[Mapping[str, Neutral]] = {}

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, value in data.items():
            if name in cls.refused and not _asks_for_nothing(value, cls.refused[name]):
                raise refusal(name, "this server does not support it, and the answer would not be what it asks for")
            if name not in cls.model_fields and name not in cls.ignored and name not in cls.refused:
                raise PydanticCustomError("unknown_field", "unknown field", {"field": short(name)})
        return {name: value for name, value in data.items() if name in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name in sorted(cls.ignored):
            schema["properties"][name] = {"description": "Accepted and ignored: the answer is the same without it."}
        for name, neutral in sorted(cls.refused.items()):
            schema["properties"][name] = {
                "enum": [None, *neutral],
                "description": "Not supported: accepted only with a value that asks for nothing.",
            }
        return schema


def refusal(field: str, reason: str) -> PydanticCustomError:
    """What a validator raises for a field that it cannot honour; `reason` is a sentence for the caller."""
    return PydanticCustomError("refused", "{reason}", {"field": field, "reason": reason})


def _asks_for_nothing(value: Any, neutral: Neutral) -> bool:
    return value is None or any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def short(name: object) -> str:
    """A name that a caller made up, as it may stand in an error."""
    text = str(name)
    return ascii(text if len(text) <= 60 else text[:60] + "...")[1:-1]


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """`value` if it is JSON that can be written again, and no deeper than the parts of the server recurse."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise PydanticCustomError("not_json", "must be JSON with valid text and finite numbers") from error
    if _deeper(value, MOST_DEPTH):
        raise PydanticCustomError("too_deep", "must not be nested deeper than {most} levels", {"most": MOST_DEPTH})
    return value


def _deeper(value: Any, most: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return most == 0 or any(_deeper(each, most - 1) for each in inner)


MOST_DEPTH = 64
MOST_STOPS = 16
MOST_ANSWERS = 16
ModelName = Annotated[str, Field(max_length=512, description="`base`, `base@profile` or `profile`.")]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
StopTexts = Annotated[list[StopText], Field(max_length=MOST_STOPS)]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 is greedy. Default: 0.7.")]
TopP = Annotated[float, Field(gt=0, le=1, description="Default: 0.95.")]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=1, le=MOST_ANSWERS)]
JsonSchema = Annotated[dict[str, Any], AfterValidator(_plain_json)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class SampledBody(Body):
    """The fields that every dialect has."""

    model: ModelName
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None


class JsonSchemaFormat(Wire):
    """A name and a JSON Schema; the answer always follows the schema, whatever `strict` says."""

    name: str | None = Field(None, max_length=200)
    description: str | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class TextPart(Wire):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class FunctionSpec(Wire):
    """A function that the model may call; parameters: JSON Schema of its arguments."""

    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class FunctionChoice(Wire):
    """Names the function that must be called."""

    name: str = Field(min_length=1, max_length=200)
