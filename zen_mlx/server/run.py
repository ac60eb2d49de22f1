"""Run the server: bind, load, listen, drain, leave; with signals and exit codes of its own.

while it loads    SIGTERM leaves with 0, SIGINT (Ctrl-C) with 130
while it serves   the first SIGTERM or SIGINT drains: no new connection is taken, running answers have `drain_s` to
                  end, then they are ended as "interrupted". Exit code 0 after SIGTERM, 130 after SIGINT
while it drains   another SIGTERM or SIGINT leaves at once with 130

When decoding has stopped with an error nothing can be answered any more: the server leaves with 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn, Protocol

import uvicorn
from starlette.types import ASGIApp

from ..config import ServeOptions
from .access import AccessLog, now
from .bind import bind, listen
from .connections import protocol_of
from .guard import Guard
from .keys import read_keys
from .origins import Origins

STOPPED, FAILED, INTERRUPTED = 0, 1, 130
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CUT_S = 2.0  # for answers that were ended to say so
_OVERTIME_S = 3.0  # after that, for whatever still does not end
_OTHER_FILES = 512  # that the process may have open beside its connections
_LOGGERS = ("uvicorn.error", "uvicorn.asgi", "zen_mlx.server")

Write = Callable[[str], None]


class Closes(Protocol):
    """What `serve` needs of a backend. failed: with what decoding has stopped for good."""

    @property
    def failed(self) -> str | None: ...

    def close(self, drain: bool = True, timeout: float | None = None) -> None: ...


Start = Callable[[], tuple[ASGIApp, Closes]]


def serve(options: ServeOptions, start: Start, *, on_ready: Write, on_log: Write) -> int:
    """Serve until a signal comes or decoding has failed; returns the exit code, which is for `leave`.

    start: loads app and backend; it is called when key file and address are known to be good. on_ready: gets the URL when
    the server listens. on_log: gets each line of the log, from several threads. Only for the main thread.

    Raises InputError for a bad key file and for an address that cannot be had, and whatever `start` raises.
    """
    log = _never_fails(on_log)
    keys = None if options.api_key_file is None else read_keys(options.api_key_file)
    Origins(options.allow_origin)
    with contextlib.closing(bind(options)) as bound, _Stop(options.drain_s) as stop:
        try:
            app, backend = start()
            logged = AccessLog(Guard(app, options, keys), log if options.access_log else lambda line: None)
            stop.server = server = _Server(logged, options, backend)
        except KeyboardInterrupt:
            return INTERRUPTED
        _allow_files(options.max_connections)
        with _logging(log):
            url = listen(bound, options)
            asyncio.run(server.run_on(bound, lambda: on_ready(url)))
        backend.close(drain=False, timeout=_CUT_S)
        if stop.code is None and backend.failed is not None:
            log(f"{now()} error decoding stopped with {backend.failed}; the server leaves")
            return FAILED
        return stop.code or STOPPED


def leave(code: int) -> NoReturn:
    """End the process with `code` after its output is flushed, without destructors: MLX's threads may be in the middle."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _never_fails(write: Write) -> Write:
    """The reader of a log may leave; the server stays."""

    def attempt(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            write(line)

    return attempt


def _allow_files(connections: int) -> None:
    """Raise this process's limit on open files where it is below what so many connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Stop:
    """The handlers of `SIGNALS` while the block runs. code: of the process, once a signal has come."""

    def __init__(self, drain_s: float) -> None:
        self.code: int | None = None
        self.server: _Server | None = None
        self._watchdog = threading.Timer(drain_s + _CUT_S + _OVERTIME_S, self._overtime)
        self._watchdog.daemon = True

    def __enter__(self) -> _Stop:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None:
            leave(INTERRUPTED)
        self.code = INTERRUPTED if number == signal.SIGINT else STOPPED
        if self.server is not None:
            self.server.should_exit = True
            self._watchdog.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            leave(STOPPED)

    def _overtime(self) -> None:
        leave(self.code or STOPPED)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers; it ends answers, not only waits for them."""

    def __init__(self, app: ASGIApp, options: ServeOptions, backend: Closes) -> None:
        config = uvicorn.Config(
            app,
            http=protocol_of(options),
            ws="none",
            loop="asyncio",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=options.idle_timeout_s,  # type: ignore[arg-type]  # seconds for call_later
            timeout_graceful_shutdown=options.drain_s + _CUT_S,  # type: ignore[arg-type]  # seconds for wait_for
        )
        super().__init__(config)
        self._backend = backend
        self._drain_s = options.drain_s

    async def run_on(self, bound: socket.socket, on_started: Callable[[], None]) -> None:
        """Serve on a socket that listens."""
        self._on_started = on_started
        await self._serve([bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """Whether to leave: also when nothing can be answered any more."""
        self.should_exit = self.should_exit or self._backend.failed is not None
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no connection any more; wait for the running answers, then end them."""
        ended = asyncio.get_running_loop().call_later(self._drain_s, self._end_answers)
        await super().shutdown(sockets)
        ended.cancel()

    def _end_answers(self) -> None:
        threading.Thread(target=self._backend.close, kwargs={"drain": False, "timeout": _CUT_S}, daemon=True).start()


class _Lines(logging.Handler):
    """Records as lines of our log: an exception's type and place, not its text, which may quote a prompt."""

    def __init__(self, write: Write) -> None:
        super().__init__(logging.WARNING)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        place = "" if error is None else f": {type(error).__name__} {_place(error)}"
        self._write(f"{now()} {record.levelname.lower()} {record.getMessage().strip()}{place}")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return "at " + " <- ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))


@contextlib.contextmanager
def _logging(write: Write, names: Sequence[str] = _LOGGERS) -> Iterator[None]:
    handler = _Lines(write)
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate, logger.level = propagate, level
