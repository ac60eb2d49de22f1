"""Admin routes: list, look at, upload, delete and pin the profiles of the base. The guard lets in only whole keys."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter
from starlette.requests import Request

from ..errors import FormatError, ProfileExistsError, ProfileNotFoundError, StorageError, ZenError
from ..format.read import read_header
from ..fsio import make_dir, storage_errors
from ..paths import SUFFIX, check_name, downloads_dir
from .documents import Responses, answers_of, error_of
from .faults import OPENAI, Fault, Refusal, sentence_of, type_of
from .model_list import numbers
from .shared import Serving

_STATUS: dict[type[ZenError], int] = {ProfileNotFoundError: 404, ProfileExistsError: 409, StorageError: 507}
_MORE: Responses = {409: error_of(OPENAI, "The name is taken."), 507: error_of(OPENAI, "The disk refused.")}
_BODY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}, "required": True}


class Keeper(Protocol):
    """Who keeps the profiles on disk: `ZenPersonalizationManager`."""

    @property
    def store(self) -> Any: ...

    def import_profile(self, file: str | Path, name: str | None = None, replace: bool = False) -> str: ...


def router(serving: Serving, keeper: Keeper) -> APIRouter:
    """The routes below /admin/profiles."""
    routes = APIRouter()
    changing = threading.Lock()
    backend = serving.backend
    one: Responses = {**answers_of(OPENAI, ["name", "file_bytes", "resident", "pinned"]), **_MORE}

    @routes.get("/admin/profiles", summary="All profiles", responses=answers_of(OPENAI, ["profiles"]))
    def profiles() -> dict[str, Any]:
        return {"profiles": [row for name in backend.profiles() if (row := _row_unless_gone(serving, name))]}

    @routes.get("/admin/profiles/{name}", summary="One profile", responses=one)
    def profile(name: str) -> dict[str, Any]:
        return _row(serving, name)

    @routes.put(
        "/admin/profiles/{name}",
        summary="Keep the .bitdelta file in the body as a profile",
        responses=one,
        openapi_extra={"requestBody": _BODY},
    )
    async def upload(name: str, request: Request, replace: bool = False) -> dict[str, Any]:
        with _typed():
            keeper.store.check_free(check_name(name), replace)
            with storage_errors(downloads_dir()), tempfile.TemporaryDirectory(dir=make_dir(downloads_dir())) as folder:
                file = Path(folder) / f"upload{SUFFIX}"
                await _receive(request, file)
                await asyncio.to_thread(keep, file, name, replace)
        return await asyncio.to_thread(_row, serving, name)

    def keep(file: Path, name: str, replace: bool) -> None:
        read_header(file)  # another program's file is not read here
        with changing:
            keeper.import_profile(file, name, replace)
        backend.forget(name)

    @routes.delete("/admin/profiles/{name}", summary="Delete a profile", responses=answers_of(OPENAI, ["deleted"]))
    def delete(name: str) -> dict[str, Any]:
        with _typed(), changing:
            backend.pin(name, False)
            keeper.store.remove(name)
        backend.forget(name)
        return {"deleted": name}

    @routes.put("/admin/profiles/{name}/pin", summary="Keep a profile in memory, once it is used", responses=one)
    def pin(name: str) -> dict[str, Any]:
        with _typed():
            backend.pin(name, True)
        return _row(serving, name) | {"pinned": True}

    @routes.delete("/admin/profiles/{name}/pin", summary="Let a profile make room for others", responses=one)
    def unpin(name: str) -> dict[str, Any]:
        with _typed():
            backend.pin(name, False)
        return _row(serving, name) | {"pinned": False}

    return routes


async def _receive(request: Request, file: Path) -> None:
    with file.open("wb") as out:
        async for piece in request.stream():
            await asyncio.to_thread(out.write, piece)


def _row(serving: Serving, name: str) -> dict[str, Any]:
    """What is known of one profile."""
    with _typed():
        facts = serving.backend.facts(name)
    stats = serving.backend.stats()
    return {
        "name": name,
        "file_bytes": facts.file_bytes,
        "bits_per_weight": facts.bits_per_weight,
        "method": facts.info.get("method"),
        "created": facts.info.get("created"),
        "sha256": facts.sha256,
        "verified": bool(facts.base.get("verified", False)),
        "metrics": numbers(facts.metrics),
        "resident": name in stats.get("resident_names", ()),
        "pinned": name in stats.get("pinned_names", ()),
    }


def _row_unless_gone(serving: Serving, name: str) -> dict[str, Any] | None:
    try:
        return _row(serving, name)
    except Refusal:
        return None


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    """An error's type is the `code` of the answer; to a request for a model the same errors are one 404."""
    try:
        yield
    except Refusal:
        raise
    except ZenError as error:
        raise Refusal(Fault(_STATUS.get(type(error), 400), _told(error), "name", type_of(error))) from error


def _told(error: ZenError) -> str:
    if isinstance(error, ProfileExistsError):
        return "there is already a profile of this name; add ?replace=true to replace it"
    if isinstance(error, ProfileNotFoundError):
        return "there is no profile of this name; GET /admin/profiles lists them"
    text = sentence_of(error)
    return f"the body is not a profile that can be kept: {text}" if isinstance(error, FormatError) else text
