"""Connections: uvicorn's HTTP/1.1 protocol with limits on their number and on every wait for a client.

uvicorn itself closes only a connection that is idle between two requests. Here a connection ends, too, when

    the head of a request is not there `header_timeout_s` after it was opened, or after the first byte of a later request
    its answer was complete before its body was, and the body does not end within `LINGER_S`
    the client takes nothing of the answer for `stall_timeout_s`
    it was closed and the client does not take what is left within `LINGER_S`

A connection too many takes the place of the one that has waited longest without a running request; where every one of
them has one, it gets 503. So half-open connections never keep anyone out. The time to read a body is the guard's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..config import ServeOptions

LINGER_S = 2.0
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
_HEAD, _REST, _CLOSING = "head", "rest", "closing"


def protocol_of(options: ServeOptions) -> type[LimitedProtocol]:
    """The class for `uvicorn.Config(http=...)` with the limits of `options`."""
    return type("Protocol", (LimitedProtocol,), {"options": options})


class LimitedProtocol(H11Protocol):
    """One connection; see the module."""

    options: ClassVar[ServeOptions]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._waiting_for: str | None = None
        self._wait: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._since = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether a request on this connection has not been answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or the place of another one."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of every byte that is not taken
        if self._find_place():
            self._expect(_HEAD)
        else:
            transport.write(_BUSY)
            self._close()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.transport.is_closing():
            return
        self._since = time.monotonic()
        super().data_received(data)
        self._look(more=True)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; within a running answer nothing can be said any more."""
        if self.running:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """An answer has been handed to the transport."""
        super().on_response_complete()
        self._since = time.monotonic()
        self._look(more=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._expect(None)
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client takes less than is written."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.options.stall_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        self._close()

    def shutdown(self) -> None:
        """The server stops: end this connection now, or after the answer that runs."""
        if self.running:
            self.cycle.keep_alive = False
        else:
            self._close()

    def _look(self, more: bool) -> None:
        """Start, keep or end the wait for the client. more: bytes have come, so that idle means within a head."""
        if self.transport.is_closing():
            self._expect(_CLOSING)
        elif not self.running and self.conn.their_state is h11.SEND_BODY:
            self._expect(_REST)
        elif more and self.conn.their_state is h11.IDLE:
            self._expect(_HEAD)
        else:
            self._expect(None)

    def _expect(self, what: str | None) -> None:
        """Wait for `what`; a wait that has begun goes on, however many bytes trickle in."""
        if what == self._waiting_for:
            return
        self._waiting_for = what
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        end: Callable[[], None] = self.transport.abort if what == _CLOSING else self._close
        if what is not None:
            seconds = self.options.header_timeout_s if what == _HEAD else LINGER_S
            self._wait = self.loop.call_later(seconds, end)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._expect(_CLOSING)

    def _find_place(self) -> bool:
        """Whether this connection may stay; one that only waits goes in its place where there are too many."""
        peer = self.client[0] if self.client else ""
        others = [each for each in self.connections if isinstance(each, LimitedProtocol) and each is not self]
        open_ones = [each for each in others if not each.transport.is_closing()]
        same = [each for each in open_ones if (each.client[0] if each.client else "") == peer]
        limits = self.options.max_connections_per_peer, self.options.max_connections
        return all(_make_room(group, limit) for group, limit in zip((same, open_ones), limits, strict=True))


def _make_room(group: list[LimitedProtocol], limit: int) -> bool:
    if len(group) < limit:
        return True
    waiting = [each for each in group if not each.running and not each.transport.is_closing()]
    if not waiting:
        return False
    min(waiting, key=lambda each: each._since).transport.abort()
    return True
