"""A backend for apps: one thread decodes for everybody, each request with its own profile, in one batch.

That thread owns model, batch and caches; a profile's file is read and checked on another one, one file at a time. A request
waits in a queue until its profile is resident and a row is free, then joins the batch between two steps.
"""

from __future__ import annotations

import atexit
import functools
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, QueueFull, ZenError
from ..memory.give_back import give_back
from .request import Request
from .scheduler import Scheduler
from .stream import Stream

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from ..adapter.resident import Resident
    from ..format.spec import Facts

_RETRY_S = 2.0
_PAUSE_S = 1.0  # after which memory is given back
_WATCH_S = 2.0  # between two looks at the files of the profiles that are kept


class Profiles(Protocol):
    """Where a backend finds the profiles of its base."""

    def names(self) -> list[str]:
        """Names of the profiles that requests may ask for."""

    def key(self, name: str) -> str:
        """The digest of a profile's file. ProfileNotFoundError, or what keeps it from being used with this base."""

    def facts(self, name: str) -> Facts:
        """What the file says of the profile; errors as `key`."""

    def load(self, name: str) -> Resident:
        """Read and check the file."""


class Backend:
    """Answers from one base with many profiles; see `Request`. Every method may be called from any thread.

    make: loads (model, tokenizer), on the thread that will use them. queue_limit: requests that wait at most.
    """

    def __init__(
        self,
        model_name: str,
        make: Callable[[], tuple[Any, TokenizerWrapper]],
        profiles: Profiles,
        *,
        streams: int,
        queue_limit: int,
        most_profiles: int,
        max_bytes: int | None = None,
        cache_bytes: int,
    ) -> None:
        self.model_name = model_name
        self.tokenizing = threading.Lock()
        self._profiles = profiles
        self._queue_limit = queue_limit
        self._tasks: queue.SimpleQueue[Callable[[Scheduler], None]] = queue.SimpleQueue()
        self._opening = threading.Lock()
        self._closing = False
        self._ended = threading.Event()
        self._opened = 0
        self._reading = threading.Lock()
        self._readers: list[threading.Thread] = []
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._limits = (streams, most_profiles, max_bytes, cache_bytes)
        self._scheduler: Scheduler | None = None
        self._thread = threading.Thread(target=self._run, args=(make,), name="zen-decode", daemon=True)
        self._thread.start()
        atexit.register(self.close, drain=False)  # a thread in MLX when the interpreter ends takes the process with it
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        threading.Thread(target=self._watch, args=(self._scheduler,), name="zen-watch", daemon=True).start()

    def _run(self, make: Callable[[], tuple[Any, TokenizerWrapper]]) -> None:
        from .decoding import context_length

        try:
            model, tokenizer = make()
            self.tokenizer = tokenizer
            self.context = context_length(model)
            self.vocab_size = _vocabulary(model)
            self._scheduler = scheduler = Scheduler(model, tokenizer, self._load, *self._limits)
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        try:
            while not scheduler.done:
                self._take_tasks(scheduler, lambda: scheduler.idle and not scheduler.done)
                scheduler.step()
        except BaseException as error:
            with self._opening:
                self._failure = error
            self._take_tasks(scheduler, lambda: False)
            scheduler.fail(error)
        self._ended.set()
        scheduler.close()
        _end_streams()

    def _take_tasks(self, scheduler: Scheduler, wait: Callable[[], bool]) -> None:
        """Everything that was asked since the last step; waits for more as long as `wait` says so."""
        pause: float | None = _PAUSE_S
        while True:
            try:
                task = self._tasks.get(block=wait(), timeout=pause)
            except queue.Empty:
                if not wait():
                    return
                give_back()
                pause = None
                continue
            task(scheduler)

    def _load(self, name: str, done: Callable[[Any], None]) -> None:
        """Read profile `name` on the other thread; `done` gets it, or what went wrong, on the decoding one."""

        def work() -> None:
            found: Any
            try:
                with self._reading:
                    found = self._read(name)
            except BaseException as error:
                found = error
            _end_streams()
            self._tasks.put(lambda _: done(found))

        reader = threading.Thread(target=work, name="zen-profile", daemon=True)
        self._readers = [*(each for each in self._readers if each.is_alive()), reader]
        reader.start()

    def _read(self, name: str) -> Resident:
        """The profile as its file is now; its digest is its key."""
        while True:
            key = self._profiles.key(name)
            resident = self._profiles.load(name)
            if not self._thread.is_alive() or self._profiles.key(name) == key:
                return replace(resident, digest=key)

    def _watch(self, scheduler: Scheduler) -> None:
        """Let go of profiles whose file was replaced or removed, by whomever."""
        while not self._ended.wait(_WATCH_S):
            for key, name in scheduler.names().items():
                if self._key_now(name) != key:
                    self._tasks.put(functools.partial(Scheduler.drop, key=key))

    def _key_now(self, name: str) -> str | None:
        try:
            return self._profiles.key(name)
        except (ZenError, OSError):
            return None

    def open(self, request: Request) -> Stream:
        """Queue `request`; its answer ends where the context does.

        ProfileNotFoundError, InputError for a prompt that is empty, unknown or fills the context, QueueFull.
        """
        if not len(request.ids) or not all(0 <= token < self.vocab_size for token in request.ids):
            raise InputError(
                "the prompt needs tokens, and only those of the model",
                field="messages",
                expected=f"numbers from 0 to {self.vocab_size - 1}",
            )
        if not 0 <= (request.top_logprobs or 0) < self.vocab_size:
            raise InputError("the model has fewer words", field="top_logprobs", found=request.top_logprobs)
        if len(request.ids) >= self.context:
            raise InputError(
                "the prompt is longer than the model's context",
                field="messages",
                expected=f"fewer than {self.context} tokens",
                found=f"{len(request.ids)} tokens",
            )
        key = "" if request.profile is None else self._profiles.key(request.profile)
        most = min(request.sampling.max_tokens, self.context - len(request.ids))
        request = replace(request, sampling=replace(request.sampling, max_tokens=most))
        stream = Stream(request, key, lambda each: self._tasks.put(lambda owner: owner.cancel(each)))
        with self._opening:
            scheduler = self._alive()
            waiting = scheduler.queued + self._opened - scheduler.counts.requests
            if waiting >= self._queue_limit:
                raise QueueFull("too many requests are waiting", retry_after=_RETRY_S, found=waiting)
            self._opened += 1
            self._tasks.put(lambda owner: owner.open(stream))
        return stream

    def _alive(self) -> Scheduler:
        if self._failure is not None:
            raise ZenError("decoding stopped with an error", found=type(self._failure).__name__) from self._failure
        if self._closing or self._scheduler is None:
            raise QueueFull("the backend is stopping", retry_after=_RETRY_S)
        return self._scheduler

    @property
    def failed(self) -> str | None:
        """The type of the error with which decoding has stopped for good."""
        return None if self._failure is None else type(self._failure).__name__

    def profiles(self) -> list[str]:
        """Names of the profiles of this base."""
        return self._profiles.names()

    def facts(self, name: str) -> Facts:
        """What its file says of a profile. ProfileNotFoundError, or what keeps it from being used with this base."""
        return self._profiles.facts(name)

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep a profile resident from its next use on, or no longer; one that replaces it, too."""
        self._profiles.key(name)
        self._tasks.put(lambda scheduler: scheduler.pin(name, pinned))

    def forget(self, name: str) -> None:
        """Let go of what is kept of a profile; answers that it began go on to their end.

        A profile whose file was removed or replaced is let go without it, within seconds.
        """
        self._tasks.put(lambda scheduler: scheduler.forget(name))

    def stats(self) -> dict[str, Any]:
        """Counts of now (running, queued, resident, bytes), since the start (tokens), and whether decoding has failed."""
        scheduler = self._scheduler
        return {} if scheduler is None else {**scheduler.stats(), "failed": self.failed is not None}

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """End the thread: after the answers that are open with `drain`, else at once; they end as "interrupted"."""
        with self._opening:  # what was opened before this is in the queue before it
            self._closing = True
        atexit.unregister(self.close)
        self._tasks.put(lambda scheduler: scheduler.stop(drain))
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._tasks.put(lambda scheduler: scheduler.stop(False))
            self._thread.join(timeout)
        for reader in self._readers:
            reader.join(timeout)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(drain=False)


def _end_streams() -> None:
    """End what MLX runs for this thread, which then may not use MLX again: threads that are left abort the process's end."""
    import mlx.core as mx

    mx.clear_streams()


def _vocabulary(model: Any) -> int:
    """Logits of the model, its padding included: rows of its head, or of the embedding that is one."""
    import mlx.nn as nn

    from ..adapter.targets import arrays, is_head, logical_shape

    weights = [(name, module) for name, module, key, _ in arrays(model) if key == "weight"]
    heads = [module for name, module in weights if is_head(name, module)]
    embeddings = [module for _, module in weights if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))]
    return logical_shape([*heads[-1:], *embeddings][0])[0]
