"""The part of `ZenPersonalizationManager` that answers for apps: streams of text, each with its own profile, from one batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..adapter.resident_set import DEFAULT_MOST
from ..base.build import build
from ..base.loaded import Base
from ..config import Sampling
from .backend import Backend
from .batch import DEFAULT_STREAMS
from .constraints import Constraints
from .decoding import Message, checked, prompt_ids, render
from .prompt_cache import DEFAULT_MAX_BYTES
from .request import Grammar, Request
from .stored_profiles import StoredProfiles
from .stream import Stream

DEFAULT_QUEUE = 64


class Serving:
    """Mixed into the manager: `store`, `base`, `model_name` and `using` are its own."""

    store: Any
    model_name: str
    _backend: Backend | None = None
    _constraints: Constraints | None = None

    def __init__(self) -> None:
        self._serving = threading.Lock()

    @property
    def base(self) -> Base:
        """The base, loaded when it is first needed."""
        raise NotImplementedError

    def using(self, name: str | None) -> AbstractContextManager[Any]:
        """Within the block profile `name` (None: the base) is active."""
        raise NotImplementedError

    def backend(
        self,
        *,
        streams: int = DEFAULT_STREAMS,
        queue: int = DEFAULT_QUEUE,
        max_profiles: int = DEFAULT_MOST,
        max_profiles_bytes: int | None = None,
        cache_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Backend:
        """The backend of this manager, started at the first call; later ones return it whatever they say.

        streams: rows of the batch; queue: requests that may wait; max_profiles, max_profiles_bytes: resident at a time;
        cache_bytes: of prompt caches. It has modules of its own over the arrays of the base, so that `activate_profile` and
        what is streamed do not see each other. Close it, or the manager's `close`, to free its memory.
        """
        with self._serving:
            if self._backend is None:
                self._backend = Backend(
                    self.model_name,
                    self._twin,
                    StoredProfiles(self.store, self.base),
                    streams=streams,
                    queue_limit=queue,
                    most_profiles=max_profiles,
                    max_bytes=max_profiles_bytes,
                    cache_bytes=cache_bytes,
                )
            return self._backend

    def _twin(self) -> tuple[Any, Any]:
        with self.using(None):
            twin = build(self.base.info.path)
            twin.update(self.base.model.parameters())
        twin.eval()
        return twin, self.base.tokenizer

    def stream(
        self,
        messages: str | Sequence[Message],
        *,
        profile: str | None = None,
        system: str | None = None,
        stop: str | Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Stream:
        """Begin an answer to `messages` (a prompt, or turns {"role", "content"}) under `profile`, and return its stream.

        Iterate over it for pieces, with `for` in any thread or with `async for`; afterwards its `finish` has counts and reason.
        Answers run side by side in one batch and keep the profile they began with. sampling: the fields of
        `config.Sampling`. stop: texts, or one, that end the answer. schema: a JSON schema that the answer must match (needs
        the extra `server`).
        """
        backend = self.backend()
        with backend.tokenizing:
            ids = (
                prompt_ids(backend.tokenizer, messages, system)
                if isinstance(messages, str)
                else render(backend.tokenizer, [*_system(system), *checked(messages)])
            )
        chosen = Sampling(**sampling)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return backend.open(Request(ids, profile, chosen, stops, grammar=self._grammar(backend, schema)))

    async def stream_async(self, messages: str | Sequence[Message], **options: Any) -> Stream:
        """`stream` for an event loop, which goes on while the base is loaded and the prompt is read."""
        return await asyncio.to_thread(self.stream, messages, **options)

    def _grammar(self, backend: Backend, schema: Mapping[str, Any] | None) -> Grammar | None:
        if schema is None:
            return None
        if self._constraints is None:
            self._constraints = Constraints(backend.tokenizer, backend.vocab_size, backend.tokenizing)
        return self._constraints.json_schema(schema, "schema")

    def close(self) -> None:
        """End the backend, if one runs, after it is loaded; answers that are open end as "interrupted"."""
        with self._serving:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close(drain=False)


def _system(text: str | None) -> list[Message]:
    return [{"role": "system", "content": text}] if text else []
