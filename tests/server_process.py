"""`zen_mlx.server.run` in a process of its own around a small app, and what speaks to it over real sockets.

`python server_process.py '{"port": 0}'` serves with these options: stdout has the URL, stderr the log. `stop_often` and
`half_open` take the command and the counts, so that a longer run may use them with the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SELF = [sys.executable, str(Path(__file__).resolve())]
HALVES = {
    "nothing": b"",
    "request line": b"POST /v1/chat/comp",
    "headers": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Ty",
    "body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 100\r\n\r\n{"model": ',
    "chunked body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"mod\r\n',
}


class CannedBackend:
    """What the server itself asks of a backend."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.failed: str | None = None

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        self.closed.set()


def canned_app(backend: CannedBackend) -> Any:
    """POST says what came; /slow: ten words in a second; /flood: bytes without end; /deaf: no one can end it.

    /dead: decoding stops.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        path, method = scope["path"], scope["method"]
        if path == "/slow":
            await words(send, 10)
        elif path == "/slower":
            await words(send, 10_000)
        elif path == "/flood":
            await flood(receive, send)
        elif path == "/hang":
            await asyncio.sleep(3600)
        elif path == "/deaf":
            await deaf()
        elif path == "/dead":
            backend.failed = "ValueError"
            await answer(send, 500, {})
        elif path == "/broken":
            raise ValueError("the text of a prompt")
        elif method == "POST":
            await came(scope, receive, send)
        else:
            found = path in ("/", "/health", "/v1/models", "/admin/profiles")
            await answer(send, 200 if found else 404, {"path": path})

    async def deaf() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def words(send: Any, count: int) -> None:
        await start(send)
        for number in range(count):
            if backend.closed.is_set():
                await send({"type": "http.response.body", "body": b"interrupted"})
                return
            await send({"type": "http.response.body", "body": f"{number} ".encode(), "more_body": True})
            await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b"done"})

    async def flood(receive: Any, send: Any) -> None:
        await start(send)
        await receive()
        left = asyncio.ensure_future(receive())
        while not left.done():
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
            await asyncio.sleep(0)

    async def came(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                await answer(send, 400, {"error": "never seen"})
                return
            size, more = size + len(message["body"]), message["more_body"]
        profiles = scope["state"]["profiles"]
        scope["state"]["tokens"] = 7
        await answer(send, 200, {"bytes": size, "profiles": None if profiles is None else sorted(profiles)})

    return app


async def start(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})


async def answer(send: Any, status: int, value: object) -> None:
    await start(send, status)
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


def main(options: dict[str, Any], load_s: float = 0) -> None:
    """Serve. load_s: seconds that loading takes."""
    from zen_mlx.cli import _errors
    from zen_mlx.config import ServeOptions
    from zen_mlx.server import run

    def begin() -> tuple[Any, CannedBackend]:
        say("loading")
        time.sleep(load_s)
        backend = CannedBackend()
        return canned_app(backend), backend

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    def ready(url: str) -> None:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()

    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    try:
        code = run.serve(ServeOptions(**chosen), begin, on_ready=ready, on_log=say)
    except BaseException as error:
        code = _errors.report(error, False)
    run.leave(code)


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    def wait_for(self, text: str, seconds: float = 5) -> str:
        """The line of the log with `text` in it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := [line for line in self.log if text in line]:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} in {self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def ask(
        self,
        path: str = "/health",
        method: str = "GET",
        body: Any = None,
        *,
        host: str | None = "localhost",
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. headers: with _ for -; host None: no Host at all."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(data, bytes):
            sent = {"content-type": "application/json", "content-length": str(len(data)), **sent}
        if host is not None:
            sent["host"] = host
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(data if isinstance(data, bytes) else None)
        response = connection.getresponse()
        try:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def connect(self, data: bytes = b"") -> socket.socket:
        """An open connection that has sent `data`."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if data:
            made.sendall(data)
        return made


@contextlib.contextmanager
def running(
    options: dict[str, Any] | None = None,
    command: list[str] | None = None,
    ready: bool = True,
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """A server on a free port, killed at the end if it still runs. ready: wait until it listens."""
    arguments = command or [*SELF, json.dumps({"port": 0, **(options or {})})]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    server = Server(process, 0)

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.log.append(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if ready:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), server.log
            server.port = int(url.rpartition(":")[2])
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def stop_often(times: int, command: list[str] | None = None, path: str = "/slow") -> list[int]:
    """The exit codes of `times` servers, each told to stop by SIGTERM in the middle of an answer."""
    codes = []
    for _ in range(times):
        with running(command=command) as server:
            stream = server.connect(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert stream.recv(1)
            codes.append(server.stop())
            stream.close()
    return codes


def half_open(server: Server, each: int, seconds: float, halves: dict[str, bytes] | None = None) -> dict[str, float]:
    """Seconds after which the last of `each` connections of every kind was closed, `seconds` at most, else AssertionError."""
    began = time.monotonic()
    opened = [(name, server.connect(data)) for name, data in (halves or HALVES).items() for _ in range(each)]
    took: dict[str, float] = {}
    for name, connection in opened:
        connection.settimeout(max(0.01, began + seconds - time.monotonic()))
        with connection, contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass
        took[name] = time.monotonic() - began
    return took


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main(json.loads(sys.argv[1]), *(float(word) for word in sys.argv[2:]))
