"""An error becomes a status and a body in the caller's dialect here, and nowhere else in the server.

OpenAI     {"error": {"message", "type", "param", "code"}}
Anthropic  {"type": "error", "error": {"type", "message"}, "request_id"}      below /v1/messages
Ollama     {"error": message}                                                  below /api/
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

OPENAI, ANTHROPIC, OLLAMA = "openai", "anthropic", "ollama"
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


@dataclass(frozen=True)
class Fault:
    """What went wrong with a request. param: the field; retry_after: seconds."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None


def dialect_of(path: str) -> str:
    """The dialect that callers of `path` speak."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return OLLAMA if path.startswith("/api/") else OPENAI


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
