"""One answer on its way from the thread that decodes to whoever asked: pieces, then how it ended, or what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterator

from .request import Finish, Piece, Request

Item = Piece | Finish | BaseException


class Stream:
    """Iterate in a thread or in an event loop: each piece comes once. finish: how it ended, once the iteration is over.

    Raises what went wrong with this answer. cancel: from any thread, as often as you like; what was said by then still comes.
    """

    def __init__(self, request: Request, key: str, on_cancel: Callable[[Stream], None]) -> None:
        self.request = request
        self.key = key
        self.finish: Finish | None = None
        self.cancelled = False
        self._on_cancel = on_cancel
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._wake: Callable[[], None] = lambda: None

    def put(self, item: Item) -> None:
        """For the thread that decodes."""
        self._items.put(item)
        with contextlib.suppress(RuntimeError):  # the loop that listened is closed
            self._wake()

    def cancel(self) -> None:
        """Take the answer out of the batch; it ends as "interrupted"."""
        if not self.cancelled and self.finish is None:
            self.cancelled = True
            self._on_cancel(self)

    def __iter__(self) -> Iterator[Piece]:
        try:
            while (piece := self._piece(self._items.get())) is not None:
                yield piece
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(arrived.set)  # type: ignore[assignment]
        try:
            while True:
                arrived.clear()
                try:
                    item = self._items.get_nowait()
                except queue.Empty:
                    await arrived.wait()
                    continue
                if (piece := self._piece(item)) is None:
                    return
                yield piece
        finally:
            self.cancel()

    def _piece(self, item: Item) -> Piece | None:
        """None at the end, which stays: whoever iterates again finds it."""
        if isinstance(item, Piece):
            return item
        self._items.put(item)
        if isinstance(item, Finish):
            self.finish = item
            return None
        self.cancelled = True
        raise item
