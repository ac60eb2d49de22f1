"""What the decoding thread does between two steps: let requests in, make their profiles resident, hand out what was decoded.

A request whose profile cannot share a batch waits until the batch is empty, and has it for itself and others of its
profile. When a profile finds no room, requests that came later and need a slot wait behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..adapter.attach import attach, check, detach
from ..adapter.resident_set import ResidentSet
from ..errors import MemoryLimitError
from .batch import BASE_KEY, Batch
from .prompt_cache import PromptCaches
from .request import Finish
from .row import Row
from .stream import Stream

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from ..adapter.resident import Resident

Load = Callable[[str, Callable[[str, Any], None]], None]
_BETWEEN_S = 0.01  # most that writing slots takes between two steps


class Scheduler:
    """Not thread-safe. load(name, done) reads a profile elsewhere and calls `done` here, with its key and it."""

    def __init__(
        self,
        model: Any,
        tokenizer: TokenizerWrapper,
        load: Load,
        streams: int,
        most_profiles: int,
        max_bytes: int | None,
        cache_bytes: int,
    ) -> None:
        self.stopping = False
        self._model = model
        self._streams = streams
        self._load = load
        self._residents = ResidentSet(model, most_profiles, max_bytes)
        self._batch = Batch(model, tokenizer, self._residents, streams=streams, caches=PromptCaches(cache_bytes))
        self._waiting: list[Stream] = []
        self._running: dict[int, tuple[Row, Stream]] = {}
        self._loading: dict[str, Iterator[None] | None] = {}  # None: its file is being read
        self._read: dict[str, Resident] = {}  # read, without room yet
        self._alone: dict[str, Resident] = {}  # of the waiting, that cannot share a batch
        self._names: dict[str, set[str]] = {}
        self._attached: str | None = None
        self._pinned: set[str] = set()
        self._counts = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def requests(self) -> int:
        """Requests so far."""
        return self._counts["requests"]

    @property
    def idle(self) -> bool:
        """Nothing is there to compute; what is waiting waits for a file."""
        return not len(self._batch) and not any(self._loading.values()) and (not self._waiting or self._blocked())

    @property
    def done(self) -> bool:
        """It was told to stop, and everybody has an answer."""
        return self.stopping and not self._waiting and not len(self._batch)

    def _blocked(self) -> bool:
        return None in self._loading.values() and not self._read

    def open(self, stream: Stream) -> None:
        """A new request; one that was cancelled before it got here has ended."""
        self._counts["requests"] += 1
        self._waiting.append(stream)
        if stream.key:
            self._names.setdefault(stream.request.profile or "", set()).add(stream.key)

    def cancel(self, stream: Stream) -> None:
        """End `stream` as interrupted, wherever it is."""
        if stream in self._waiting:
            self._end_waiting(stream, Finish("interrupted", None, len(stream.request.ids), 0, 0, 0.0, 0.0, 0))
        for row, each in list(self._running.values()):
            if each is stream:
                self._batch.cancel(row)
                self._finish(row)

    def pin(self, key: str, pinned: bool) -> None:
        """Keep a profile however long it is not used."""
        (self._pinned.add if pinned else self._pinned.discard)(key)
        if self._residents.ready(key):
            self._residents.pin(key, pinned)

    def forget(self, name: str) -> None:
        """Drop the profiles that were known by `name`, once their rows have ended, and their prompt caches."""
        for key in self._names.pop(name, set()):
            work = self._loading.get(key)
            if work is not None:
                del self._loading[key]
            self._read.pop(key, None)
            self._residents.drop(key)
            self._batch.caches.drop(key)

    def stop(self, drain: bool) -> None:
        """Take no more; without `drain` end what is open."""
        self.stopping = True
        if not drain:
            for stream in [*self._waiting, *(stream for _, stream in self._running.values())]:
                self.cancel(stream)

    def step(self) -> None:
        """Let in what can come in, write slots for a moment, and decode one token for every row."""
        self._admit()
        self._write_slots()
        if not len(self._batch):
            return
        for row, piece in self._batch.step():
            _, stream = self._running[id(row)]
            stream.put(piece)
            if row.finish is not None:
                self._finish(row)

    def _finish(self, row: Row) -> None:
        _, stream = self._running.pop(id(row))
        finish = row.finish
        assert finish is not None
        self._counts["prompt_tokens"] += finish.prompt_tokens
        self._counts["cached_tokens"] += finish.cached_tokens
        self._counts["completion_tokens"] += finish.completion_tokens
        failure = row.matcher.failure if row.matcher is not None else None
        stream.put(finish if failure is None else failure)

    def _end_waiting(self, stream: Stream, end: Finish | BaseException) -> None:
        self._waiting.remove(stream)
        stream.put(end)
        if not self._waiting_for(stream.key):
            self._read.pop(stream.key, None)
            if stream.key != self._attached:
                self._alone.pop(stream.key, None)

    def _waiting_for(self, key: str) -> list[Stream]:
        return [stream for stream in self._waiting if stream.key == key]

    def _admit(self) -> None:
        """In the order in which they came, as far as rows and slots go."""
        short = False  # of slots: those that came later may not take one first
        for stream in list(self._waiting):
            if len(self._batch) >= self._streams:
                return
            key = stream.key
            if key in self._alone or self._attached is not None:
                if not self._turn(key):
                    return
            elif key and not self._residents.ready(key):
                short = self._make_resident(stream, short) or short
                continue
            elif key and short:
                continue
            self._start(stream)

    def _turn(self, key: str) -> bool:
        """Whether the batch is, or can now be, one that rows of `key` may join: it, or the shared one, is empty."""
        wanted = key if key in self._alone else None
        if wanted == self._attached:
            return True
        if len(self._batch) or any(self._loading.values()):
            return False
        self._batch.settle()
        detach(self._model)
        self._residents.close()
        if self._attached is not None and not self._waiting_for(self._attached):
            del self._alone[self._attached]
        self._attached = wanted
        if wanted is not None:
            attach(self._model, self._alone[wanted], "unmerged")
        return wanted is not None or not key

    def _start(self, stream: Stream) -> None:
        self._waiting.remove(stream)
        try:
            row = self._batch.add(stream.request, stream.key or BASE_KEY, shared=self._attached is None)
        except Exception as error:  # of this request alone, such as its grammar's
            stream.put(error)
            return
        self._running[id(row)] = row, stream

    def _make_resident(self, stream: Stream, short: bool) -> bool:
        """Read, then place the profile of `stream`; True: there is no room for it now.

        One is read at a time, and none while another one that was read has no room: those are in no budget.
        """
        key = stream.key
        if key in self._read:
            return short or not self._place(key)
        if not self._read and None not in self._loading.values() and key not in self._loading:
            self._loading[key] = None
            self._load(stream.request.profile or "", lambda now, found: self._was_read(key, now, found))
        return False

    def _was_read(self, key: str, now: str, found: Resident | BaseException) -> None:
        """now: the key of what was read, another one where the profile was replaced since its requests came."""
        del self._loading[key]
        waiting = self._waiting_for(key)
        try:
            if isinstance(found, BaseException):
                raise found
            check(self._model, found.tensors)
        except BaseException as error:
            for stream in waiting:
                self._end_waiting(stream, error)
            return
        for stream in waiting:
            stream.key = now
            self._names.setdefault(stream.request.profile or "", set()).add(now)
        if waiting and not any(now in each for each in (self._residents.keys(), self._loading, self._alone)):
            place = self._read if self._residents.why_alone(found) is None else self._alone
            place[now] = found

    def _place(self, key: str) -> bool:
        """Begin to write the slots of a profile that was read; False: there is no room yet."""
        resident = self._read[key]
        if not self._residents.room_for(resident):
            if not self._running and not any(self._loading.values()):
                self._no_room(key, resident.nbytes)
            return False
        del self._read[key]
        self._loading[key] = self._residents.load(key, resident)
        return True

    def _no_room(self, key: str, nbytes: int) -> None:
        error = MemoryLimitError(
            "the profile does not fit beside those that are pinned", expected=self._residents.max_bytes, found=nbytes
        )
        for stream in self._waiting_for(key):
            self._end_waiting(stream, error)

    def _write_slots(self) -> None:
        """Go on with the profiles that get their slots, for a moment when rows are waiting for their next token."""
        until = time.perf_counter() + _BETWEEN_S
        for key, work in list(self._loading.items()):
            if work is None:
                continue
            self._batch.settle()
            for _ in work:
                if self._running and time.perf_counter() > until:
                    return
            del self._loading[key]
            if key in self._pinned:
                self._residents.pin(key)

    def fail(self, error: BaseException) -> None:
        """Tell everybody that decoding has ended with `error`."""
        for stream in [*self._waiting, *(stream for _, stream in self._running.values())]:
            stream.put(error)
        self._waiting.clear()
        self._running.clear()

    def close(self) -> None:
        """Give the model its own layers back."""
        detach(self._model)
        self._residents.close()

    def stats(self) -> dict[str, Any]:
        """Counts, for any thread."""
        return {
            "running": len(self._running),
            "queued": self.queued,
            "resident": len(self._residents.keys()),
            "resident_bytes": self._residents.nbytes,
            "cache_bytes": self._batch.caches.nbytes,
            **self._counts,
        }
