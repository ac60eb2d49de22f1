"""What the dialects share: the backend, the options, the metrics, and the way from a model's name to a profile."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest

from ..config import ServeOptions
from ..engine.constraints import Constraints
from ..engine.request import Finish, Piece, Request
from ..errors import ProfileNotFoundError
from ..format.spec import Facts
from ..paths import check_name
from .metrics import Metrics

BASE = "base"  # in a key's list of profiles: the base alone


class Stream(Protocol):
    """One answer. finish: set when the iteration has ended."""

    finish: Finish | None

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def cancel(self) -> None:
        """End the answer; idempotent."""


class Backend(Protocol):
    """What the server needs of the engine; every method may be called from any thread.

    vocab_size: tokens that the model scores, with its padding. context: most tokens of a prompt and its answer.
    tokenizing: held while the tokenizer is used.
    """

    model_name: str
    tokenizer: Any
    tokenizing: threading.Lock
    vocab_size: int
    context: int

    def open(self, request: Request) -> Stream: ...

    def profiles(self) -> list[str]: ...

    def facts(self, name: str) -> Facts: ...

    def pin(self, name: str, pinned: bool = True) -> None: ...

    def forget(self, name: str) -> None: ...

    def stats(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Serving:
    """One server. started: Unix time."""

    backend: Backend
    options: ServeOptions
    metrics: Metrics
    constraints: Constraints
    started: int = field(default_factory=lambda: int(time.time()))

    def profile_of(self, model: str, http: HttpRequest) -> str | None:
        """The profile that `base`, `base@profile` or `profile` names; None for the base.

        ProfileNotFoundError or NameInvalidError for what cannot be one, and for one that this caller may not use.
        """
        base = self.backend.model_name
        name = None if model == base else check_name(model.removeprefix(f"{base}@"))
        if not _allowed(name, http):
            raise ProfileNotFoundError("no such profile")
        return name

    def known_profile(self, model: str, http: HttpRequest) -> str | None:
        """The same, for what does not open an answer: it also looks whether the profile can be used."""
        name = self.profile_of(model, http)
        if name is not None:
            self.backend.facts(name)
        return name

    def profiles_for(self, http: HttpRequest) -> list[str | None]:
        """What this caller may use: None for the base, and names of profiles."""
        return [name for name in (None, *self.backend.profiles()) if _allowed(name, http)]

    def model_of(self, profile: str | None) -> str:
        """The canonical name of what answers: `base` or `base@profile`."""
        base = self.backend.model_name
        return base if profile is None else f"{base}@{profile}"


def _allowed(profile: str | None, http: HttpRequest) -> bool:
    """Whether the guard lets this caller use `profile`: `http.state.profiles` holds names, `base` among them, or is None."""
    allowed = getattr(http.state, "profiles", None)
    return allowed is None or (BASE if profile is None else profile) in allowed
