"""What the OpenAPI document says about answers: their media types, and the errors of each dialect."""

from __future__ import annotations

from typing import Any

from .faults import ANTHROPIC, OLLAMA, OPENAI

_TEXT = {"type": "string"}
_ERROR_TEXTS = {
    400: "The request cannot be honoured; the message names the field.",
    401: "A key is missing or wrong.",
    403: "The key may not do this.",
    404: "No such model, or no such route.",
    408: "The request took too long to arrive.",
    413: "The request is too large.",
    415: "The body is not JSON.",
    429: "Too many requests are waiting; Retry-After says when to ask again.",
    500: "The server failed.",
    503: "The server ended the answer before it was complete, or has no room for the profile beside pinned ones.",
    504: "The answer took too long.",
}
_OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": _TEXT, "message": _TEXT},
        },
        "request_id": {"type": ["string", "null"]},
    },
}
_OLLAMA_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
_ERRORS = {OPENAI: _OPENAI_ERROR, ANTHROPIC: _ANTHROPIC_ERROR, OLLAMA: _OLLAMA_ERROR}

Responses = dict[int | str, dict[str, Any]]


def answers_of(dialect: str, required: list[str], streamed: str | None = None) -> Responses:
    """A route's answers. required: keys of its JSON document; streamed: the media type of its stream."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object", "required": required}}}
    if streamed is not None:
        content[streamed] = {"schema": {"description": "The same in pieces, each an event or a line."}}
    return {200: {"description": "The answer.", "content": content}, **errors_of(dialect)}


def errors_of(dialect: str) -> Responses:
    """The errors that every route may answer with."""
    return {status: error_of(dialect, text) for status, text in _ERROR_TEXTS.items()}


def error_of(dialect: str, text: str) -> dict[str, Any]:
    """One more error; `text` says when."""
    return {"description": text, "content": {"application/json": {"schema": _ERRORS[dialect]}}}


def without_422(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document without the error form that this server never uses."""
    for route in document.get("paths", {}).values():
        for operation in route.values():
            operation.get("responses", {}).pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
    return document
