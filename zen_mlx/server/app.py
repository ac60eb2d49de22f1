"""The FastAPI application: every dialect's routes, health, metrics, request ids, and errors in the caller's dialect."""

from __future__ import annotations

import uuid
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..config import ServeOptions
from ..engine.constraints import Constraints
from ..errors import ZenError
from . import admin, anthropic_messages, model_list, ollama, openai_chat, openai_completions, openai_responses
from .documents import answers_of, errors_of, without_422
from .faults import ANTHROPIC, OPENAI, answer_error, dialect_of, fault_of, log_unexpected, response_of
from .metrics import Metrics
from .page import mount_page
from .shared import Backend, Serving

NO_EMBEDDINGS = (
    "this server has no embeddings: a chat model makes poor ones, and they would differ by profile; "
    "use an embedding model"
)


def create_app(backend: Backend, options: ServeOptions | None = None, keeper: admin.Keeper | None = None) -> FastAPI:
    """The application over `backend`, which it neither starts nor closes.

    keeper: changes the profiles on disk for the admin routes, which are not there without it.

    A guard in front may set, in `scope["state"]`, `profiles` to the names of those that a caller may use, with `base` for
    the base alone, and `request_id`; `tokens` is there after an answer.
    """
    constraints = Constraints(backend.tokenizer, backend.vocab_size, backend.tokenizing)
    serving = Serving(backend, options or ServeOptions(), Metrics(backend.stats), constraints)
    app = FastAPI(title="zen-mlx", version=version("zen-mlx"), docs_url=None, redoc_url=None, redirect_slashes=False)
    for errors in (ZenError, RequestValidationError, HTTPException):
        app.add_exception_handler(errors, answer_error)
    app.add_middleware(Identify, metrics=serving.metrics)
    dialects = [openai_chat, openai_completions, openai_responses, anthropic_messages, model_list]
    for dialect in [*dialects, ollama] if serving.options.ollama else dialects:
        app.include_router(dialect.router(serving))
    if keeper is not None:
        app.include_router(admin.router(serving, keeper))
    mount_page(app)
    _add_own(app, serving)
    _describe(app)
    return app


class Identify:
    """Gives every answer its request id, counts it, and answers what nobody expected to fail."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {}).setdefault("request_id", f"req_{uuid.uuid4().hex}")
        status = 0

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *_id_headers(scope, request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, identified)
        except Exception as error:
            log_unexpected(error, request_id)
            if not status:
                await response_of(scope["path"], fault_of(error), request_id)(scope, receive, identified)
        finally:
            self._metrics.request(getattr(scope.get("route"), "path", "none"), status)


def _id_headers(scope: Scope, request_id: str) -> list[tuple[bytes, bytes]]:
    names = [b"x-request-id", b"request-id"] if dialect_of(scope["path"]) == ANTHROPIC else [b"x-request-id"]
    return [(name, request_id.encode()) for name in names]


def _add_own(app: FastAPI, serving: Serving) -> None:
    """The routes that belong to no dialect."""

    @app.get("/health", summary="Whether the server works", responses=answers_of(OPENAI, ["status"]))
    def health(response: Response) -> dict[str, Any]:
        stats = serving.backend.stats()
        failed = stats.get("failed", False)
        response.status_code = 503 if failed else 200
        return {
            "status": "failed" if failed else "ok",
            "running": stats.get("running", 0),
            "queued": stats.get("queued", 0),
        }

    @app.get(
        "/metrics",
        summary="Numbers for Prometheus",
        response_class=Response,
        responses={
            200: {"description": "The numbers.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **errors_of(OPENAI),
        },
    )
    def metrics() -> Response:
        return Response(serving.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/embeddings", include_in_schema=False)
    def embeddings(request: Request) -> None:
        raise HTTPException(404, NO_EMBEDDINGS)


def _describe(app: FastAPI) -> None:
    """The OpenAPI document says what the server does: no 422."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        return without_422(original())

    app.openapi = openapi  # type: ignore[method-assign]
