"""An error becomes a status and a body in the caller's dialect here, and nowhere else in the server.

    OpenAI     {"error": {"message", "type", "param", "code"}}
    Anthropic  {"type": "error", "error": {"type", "message"}, "request_id"}      below /v1/messages
    Ollama     {"error": message}                                                  below /api/

No message holds anything of a prompt or an answer.
"""

from __future__ import annotations

import logging
import math
import re
import traceback
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..errors import (
    BaseMismatchError,
    FormatError,
    InputError,
    MemoryLimitError,
    NameInvalidError,
    ProfileNotFoundError,
    QueueFull,
    ZenError,
)
from .wire import short

OPENAI, ANTHROPIC, OLLAMA = "openai", "anthropic", "ollama"
NO_MODEL = "there is no such model; GET /v1/models lists those of this server"
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_LOG = logging.getLogger("zen_mlx.server")


@dataclass(frozen=True)
class Fault:
    """What went wrong with a request. param: the field; retry_after: seconds."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None


class Refusal(ZenError):
    """A request that is answered with `fault`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Interrupted(ZenError):
    """The answer was ended from within the server before it was complete."""

    def __init__(self) -> None:
        super().__init__("the server ended this answer before it was complete", hint="ask again")


def dialect_of(path: str) -> str:
    """The dialect that callers of `path` speak."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return OLLAMA if path.startswith("/api/") else OPENAI


def fault_of(error: BaseException) -> Fault:
    """What a caller may know about `error`; of an unexpected one, only that it happened."""
    if isinstance(error, Refusal):
        return error.fault
    if isinstance(error, (ProfileNotFoundError, NameInvalidError, BaseMismatchError, FormatError)):
        return Fault(404, NO_MODEL, "model", "model_not_found")
    if isinstance(error, QueueFull):
        return Fault(429, sentence_of(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, MemoryLimitError):
        return Fault(503, sentence_of(error), "model", "no_room")
    if isinstance(error, InputError):
        return Fault(400, sentence_of(error), error.field)
    if isinstance(error, Interrupted):
        return Fault(503, sentence_of(error), code="interrupted")
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return Fault(error.status_code, str(error.detail))
    return Fault(500, "the server failed to answer; its log has the request id", code="internal_error")


def body_of(dialect: str, fault: Fault, request_id: str | None = None) -> dict[str, Any]:
    """The JSON document of `fault`."""
    if dialect == OLLAMA:
        return {"error": fault.message}
    if dialect == ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": fault.message}, "request_id": request_id}
    kind = _OPENAI_TYPES.get(fault.status, "server_error" if fault.status >= 500 else "invalid_request_error")
    return {"error": {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}}


def response_of(path: str, fault: Fault, request_id: str | None = None) -> JSONResponse:
    """The whole answer for `fault` to a request for `path`."""
    headers = {} if fault.retry_after is None else {"retry-after": str(max(1, math.ceil(fault.retry_after)))}
    return JSONResponse(body_of(dialect_of(path), fault, request_id), fault.status, headers)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The exception handler of every error that is expected."""
    response = response_of(request.url.path, fault_of(error), request_id_of(request))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


def request_id_of(request: Request) -> str | None:
    """The id that this request's answer carries."""
    return getattr(request.state, "request_id", None)


def log_unexpected(error: BaseException, request_id: str | None) -> None:
    """Log where `error` came from, without its text, which may quote a prompt."""
    if fault_of(error).status != 500:
        return
    frames = traceback.extract_tb(error.__traceback__)
    where = " <- ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames[-8:]))
    _LOG.error("request %s failed: %s at %s", request_id, type(error).__name__, where or "an unknown place")


def type_of(error: ZenError) -> str:
    """The type of an error as a `code`: `profile_exists` of ProfileExistsError."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()


def sentence_of(error: ZenError) -> str:
    """What an error says, and the way out, without a path of this machine."""
    text = str(error).removeprefix(f"{error.path}: ")
    text = f"{text}; {error.hint}" if error.hint else text
    return text.replace(str(error.path), "the file") if error.path else text


def _invalid(error: RequestValidationError) -> Fault:
    """The most specific of pydantic's complaints, without the value that it complains of."""
    worst = max(error.errors(), key=lambda each: (each["type"] in ("refused", "unknown_field"), len(each["loc"])))
    context = worst.get("ctx") or {}
    if worst["type"] == "json_invalid":
        return Fault(400, "the body is not valid JSON")
    param = _field(worst, error.body)
    return Fault(
        400, f"{param or 'body'}: {_complaint(worst['type'], worst['msg'], context)}", param, _code(worst["type"])
    )


def _field(complaint: dict[str, Any], body: Any) -> str | None:
    """Where in `body` the field is: pydantic's location without its names for the branches of a union."""
    places: list[str] = []
    for place in complaint["loc"][1:]:
        inside = place in body if isinstance(body, dict) else isinstance(body, list) and place in range(len(body))
        if inside:
            body = body[place]
            places.append(short(place))
    if complaint["type"] == "missing":
        places.append(str(complaint["loc"][-1]))
    if field := (complaint.get("ctx") or {}).get("field"):
        places.append(field)
    return ".".join(places) or None


def _code(kind: str) -> str | None:
    return {"unknown_field": "unknown_field", "extra_forbidden": "unknown_field", "refused": "unsupported"}.get(kind)


def _complaint(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind == "extra_forbidden":
        return "unknown field"
    if kind == "union_tag_invalid":
        return f"the only supported types are {context['expected_tags']}"
    if kind == "missing":
        return "this field is required"
    if kind in ("model_attributes_type", "dict_type"):
        return "must be a JSON object, sent with content-type: application/json"
    return message[0].lower() + message[1:]
