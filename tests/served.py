"""The server's own application over canned answers, on a real loopback port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from canned_backend import CannedBackend

from zen_mlx.config import ServeOptions
from zen_mlx.server.app import create_app


@dataclass
class Live:
    """A running server. url: without a path."""

    url: str
    backend: CannedBackend
    http: httpx.Client


@contextmanager
def serving(backend: CannedBackend, options: ServeOptions) -> Iterator[Live]:
    """A server until the end of the block."""
    with listening(create_app(backend, options)) as url, httpx.Client(base_url=url, timeout=10) as http:
        yield Live(url, backend, http)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The URL, without a path, of an ASGI application that is served until the end of the block."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sets it only on sockets it made
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
