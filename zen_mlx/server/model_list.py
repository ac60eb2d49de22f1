"""The list of models: the base, and every profile of it as `base@profile`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from .documents import answers_of
from .faults import OPENAI
from .shared import Serving


def router(serving: Serving) -> APIRouter:
    """`/v1/models` and `/v1/models/{id}`."""
    routes = APIRouter()

    @routes.get("/v1/models", summary="All models", responses=answers_of(OPENAI, ["object", "data"]))
    def models(request: Request) -> dict[str, Any]:
        names = serving.profiles_for(request)
        return {"object": "list", "data": [_model(serving, name) for name in names]}

    @routes.get("/v1/models/{id:path}", summary="One model", responses=answers_of(OPENAI, ["id", "object"]))
    def model(id: str, request: Request) -> dict[str, Any]:
        return _model(serving, serving.known_profile(id, request))

    return routes


def _model(serving: Serving, profile: str | None) -> dict[str, Any]:
    """One model; `parent` is the base of a profile."""
    return {
        "id": serving.model_of(profile),
        "object": "model",
        "created": serving.started,
        "owned_by": "zen-mlx",
        "parent": None if profile is None else serving.backend.model_name,
    }
