"""The list of models: the base, and every profile of it as `base@profile`, with its size and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ..errors import ZenError
from .documents import answers_of
from .faults import OPENAI
from .shared import Serving


def router(serving: Serving) -> APIRouter:
    """`/v1/models` and `/v1/models/{id}`."""
    routes = APIRouter()

    @routes.get("/v1/models", summary="All models", responses=answers_of(OPENAI, ["object", "data"]))
    def models(request: Request) -> dict[str, Any]:
        names = serving.profiles_for(request)
        return {"object": "list", "data": [each for name in names if (each := _model_unless_gone(serving, name))]}

    @routes.get("/v1/models/{id:path}", summary="One model", responses=answers_of(OPENAI, ["id", "object"]))
    def model(id: str, request: Request) -> dict[str, Any]:
        return _model(serving, serving.known_profile(id, request))

    return routes


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a header that are finite numbers; whoever made the file wrote the rest."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _model(serving: Serving, profile: str | None) -> dict[str, Any]:
    """One model; `parent` is the base of a profile, `zen` what its file says of it."""
    document = {
        "id": serving.model_of(profile),
        "object": "model",
        "created": serving.started,
        "owned_by": "zen-mlx",
        "parent": None if profile is None else serving.backend.model_name,
    }
    if profile is None:
        return document
    facts = serving.backend.facts(profile)
    size = {"file_bytes": facts.file_bytes, "bits_per_weight": facts.bits_per_weight}
    return document | {"zen": size | {"metrics": numbers(facts.metrics)}}


def _model_unless_gone(serving: Serving, profile: str | None) -> dict[str, Any] | None:
    """A profile may be removed while the list is made."""
    try:
        return _model(serving, profile)
    except ZenError:
        return None
