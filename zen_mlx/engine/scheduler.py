"""What the decoding thread does between two steps: let requests in, make their profiles resident, hand out what was decoded.

A request whose profile cannot share a batch waits until the batch is empty, and has it for itself and others of its
profile. When a profile finds no room, requests that came later and need a slot wait behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..adapter.attach import attach, check, detach
from ..adapter.resident_set import ResidentSet
from ..errors import MemoryLimitError
from .batch import BASE_KEY, Batch
from .counts import Counts
from .prompt_cache import PromptCaches
from .request import Finish, Piece
from .row import Row
from .stream import Stream

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from ..adapter.resident import Resident

Load = Callable[[str, Callable[[Any], None]], None]
_BETWEEN_S = 0.01  # most that writing slots takes between two steps


class Scheduler:
    """Not thread-safe. load(name, done) reads a profile elsewhere and calls `done` with it here."""

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
        self._attached: str | None = None
        self._names: dict[str, str] = {}  # of profiles of which something may be kept, by key
        self._pinned: set[str] = set()  # names
        self.counts = Counts()

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing is there to compute; what is waiting waits for a file."""
        if len(self._batch) or any(self._loading.values()) or (self._waiting and self._read):
            return False
        ready = (not each.key or each.key in self._alone or self._residents.ready(each.key) for each in self._waiting)
        return not any(ready) and (not self._waiting or None in self._loading.values())

    @property
    def done(self) -> bool:
        """It was told to stop, and everybody has an answer."""
        return self.stopping and not self._waiting and not len(self._batch)

    def open(self, stream: Stream) -> None:
        """A new request; one that was cancelled before it got here has ended."""
        self.counts.requests += 1
        self._waiting.append(stream)
        if stream.key:
            self._know(stream.key, stream.request.profile or "")

    def _know(self, key: str, name: str) -> None:
        """`key` is what `name` is now; what was known by that name goes."""
        for old in self._keys_of(name):
            if old != key:
                self.drop(old)
        self._names[key] = name
        self._residents.keep(key)

    def cancel(self, stream: Stream) -> None:
        """End `stream` as interrupted, wherever it is."""
        if stream in self._waiting:
            self._end_waiting(stream, Finish("interrupted", None, len(stream.request.ids), 0, 0, 0.0, 0.0, 0))
        for row, each in list(self._running.values()):
            if each is stream:
                if text := self._batch.cancel(row):
                    stream.put(Piece(text, 0))
                self._finish(row)

    def pin(self, name: str, pinned: bool) -> None:
        """Keep the profile of this name however long it is not used."""
        (self._pinned.add if pinned else self._pinned.discard)(name)
        for key in filter(self._residents.ready, self._keys_of(name)):
            self._residents.pin(key, pinned)

    def forget(self, name: str) -> None:
        """`drop` what is known by `name`."""
        for key in self._keys_of(name):
            self.drop(key)

    def _keys_of(self, name: str) -> list[str]:
        return [key for key, known in self._names.items() if known == name]

    def names(self) -> dict[str, str]:
        """Names of the profiles of which something may be kept, by key; for any thread."""
        return dict(self._names)

    def drop(self, key: str) -> None:
        """Let go of a profile once its rows have ended, and of its prompt caches; not while requests wait for it."""
        if self._waiting_for(key):
            return
        if self._loading.get(key) is not None:
            del self._loading[key]
        self._read.pop(key, None)
        self._residents.drop(key)
        self._batch.caches.drop(key)
        if key == self._attached:
            self._turn(BASE_KEY)
        if key != self._attached and all(stream.key != key for _, stream in self._running.values()):
            self._names.pop(key, None)

    def _waiting_for(self, key: str) -> list[Stream]:
        return [stream for stream in self._waiting if stream.key == key]

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
        self.counts.add(finish)
        failure = row.matcher.failure if row.matcher is not None else None
        stream.put(finish if failure is None else failure)

    def _end_waiting(self, stream: Stream, end: Finish | BaseException) -> None:
        self._waiting.remove(stream)
        stream.put(end)
        if not self._waiting_for(stream.key):
            self._read.pop(stream.key, None)
            if stream.key != self._attached:
                self._alone.pop(stream.key, None)

    def _end_all(self, key: str, error: BaseException) -> None:
        for stream in self._waiting_for(key):
            self._end_waiting(stream, error)

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
        """Read, one at a time as that is in no budget, then place the profile of `stream`; True: there is no room now."""
        key = stream.key
        if key in self._read:
            return short or not self._place(key)
        if not self._read and None not in self._loading.values() and key not in self._loading:
            self._loading[key] = None
            self._load(stream.request.profile or "", lambda found: self._was_read(key, found))
        return False

    def _was_read(self, key: str, found: Resident | BaseException) -> None:
        del self._loading[key]
        try:
            if isinstance(found, BaseException):
                raise found
            check(self._model, found.tensors)
        except BaseException as error:
            self._end_all(key, error)
            return
        if found.digest not in (None, key):  # replaced after it was asked for: those who wait get what is there now
            old, key = key, str(found.digest)
            for stream in self._waiting_for(old):
                stream.key = key
                self._know(key, stream.request.profile or "")
        if not self._waiting_for(key) or key in self._loading or self._residents.ready(key):
            return
        (self._read if self._residents.why_alone(found) is None else self._alone)[key] = found

    def _place(self, key: str) -> bool:
        """Begin to write the slots of a profile that was read; False: there is no room yet."""
        resident = self._read[key]
        if not self._residents.room_for(resident):
            if not self._running and not any(self._loading.values()):
                why = "the profile does not fit beside those that are pinned"
                self._end_all(key, MemoryLimitError(why, expected=self._residents.max_bytes, found=resident.nbytes))
            return False
        del self._read[key]
        self._loading[key] = self._residents.load(key, resident)
        return True

    def _write_slots(self) -> None:
        """Go on with the profiles that get their slots, for a moment when rows are waiting for their next token."""
        if not (writing := [(key, work) for key, work in self._loading.items() if work is not None]):
            return
        self._batch.settle()
        until = time.perf_counter() + _BETWEEN_S  # the step in flight may have taken longer than that
        for key, work in writing:
            for _ in work:
                if self._running and time.perf_counter() > until:
                    return
            del self._loading[key]
            if self._names.get(key) in self._pinned:
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
        """Counts and names, for any thread."""
        names, ready = self.names(), self._residents.keys()
        return {
            "running": len(self._running),
            "queued": self.queued,
            "resident": len(ready),
            "resident_names": sorted({names[key] for key in ready if key in names}),
            "pinned_names": sorted(self._pinned.copy()),
            "resident_bytes": self._residents.nbytes,
            "cache_bytes": self._batch.caches.nbytes,
            **asdict(self.counts),
        }
