"""The server's own application over canned answers, on a real loopback port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
    config = uvicorn.Config(create_app(backend, options), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sets it only on sockets it made
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=10) as http:
                yield Live(url, backend, http)
        finally:
            server.should_exit = True
            thread.join()
