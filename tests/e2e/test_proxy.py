"""The proxies of docs, run as they stand there before two HTTP servers: where a request goes, and when one is lost."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROFILES = [f"profile-{number}" for number in range(24)]
PATIENCE_S = 15.0


class Machine(ThreadingHTTPServer):
    """Answers with its own name. A streamed answer's second half waits for `go_on`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, name: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.name = name
        self.go_on = threading.Event()
        self.status = 200
        self.health_s = 0.0
        self.asked = 0
        self.left = threading.Event()
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def handle_error(self, *_: Any) -> None:
        """A proxy that hangs up is no news."""

    def drain(self) -> None:
        """Take no new connection; running answers end."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Machine

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        time.sleep(self.server.health_s if self.path == "/health" else 0)
        self._say(200 if self.path == "/health" else self.server.status, {"machine": self.server.name})

    def do_POST(self) -> None:
        self.server.asked += 1
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            self._stream()
        else:
            self._say(self.server.status, {"machine": self.server.name, "host": self.headers["host"]})

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if status == 429:
            self.send_header("retry-after", "3")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            self._piece(f"data: {self.server.name}\n\n")
            while not self.server.go_on.wait(0.02):
                self._piece(": waiting\n\n")
            self._piece("data: end\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.left.set()
            self.close_connection = True

    def _piece(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())


class Proxy:
    """A proxy in front of machines a and b."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.machines = {name: Machine(name) for name in "ab"}
        self.port = _free_port()
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            COMMANDS[kind](folder, self._fitted(kind, folder)), stdout=self._log, stderr=self._log
        )
        _until(lambda: self.connected() and self.ask({"model": "any"})[0] == 200, f"{kind}: {folder / 'log'}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()
        for machine in self.machines.values():
            machine.go_on.set()
            machine.drain()

    def _fitted(self, kind: str, folder: Path) -> str:
        """The example with this test's addresses, and with shorter waits."""
        text = (DOCS / FILES[kind]).read_text(encoding="utf-8")
        changes = {
            "10.0.0.11:8000 ": f"127.0.0.1:{self.machines['a'].port} ",
            "10.0.0.12:8000 ": f"127.0.0.1:{self.machines['b'].port} ",
            "10.0.0.11:8000\n": f"127.0.0.1:{self.machines['a'].port}\n",
            "10.0.0.12:8000\n": f"127.0.0.1:{self.machines['b'].port}\n",
            "listen 8080;": f"listen 127.0.0.1:{self.port};",
            "bind :8080 ": f"bind 127.0.0.1:{self.port} ",
            "fail_timeout=10s": "fail_timeout=1s",
            "inter 2s": "inter 100ms",
            "/run/haproxy.sock": str(folder / "s"),
        }
        for old, new in changes.items():
            text = text.replace(old, new)
        servers = [line for line in text.splitlines() if line.strip().startswith("server ") and ":" in line]
        assert len(servers) == 2
        assert all("127.0.0.1" in line for line in servers)
        assert str(self.port) in text
        return text

    def connected(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any], Any]:
        """(status, answer, headers) of a chat request."""
        connection = self.connection()
        try:
            named = {
                "content-type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            }
            connection.request("POST", "/v1/chat/completions", json.dumps(body), named)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if response.status == 200 else {}, response.headers
        finally:
            connection.close()

    def place(self, model: str, **rest: Any) -> str:
        """The machine that answers for `model`."""
        status, answer, _ = self.ask({"messages": [{"role": "user", "content": "Hello"}], "model": model, **rest})
        assert status == 200
        return str(answer["machine"])

    def places(self) -> list[str]:
        return [self.place(profile) for profile in PROFILES]


def _nginx(folder: Path, text: str) -> list[str]:
    kept = "".join(
        f"{name}_temp_path {folder / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(text.replace("http {\n", f"http {{\naccess_log off;\n{kept}", 1))
    options = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    return [_found("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", options]


def _haproxy(folder: Path, text: str) -> list[str]:
    (folder / "haproxy.cfg").write_text(text)
    return [_found("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


FILES = {"nginx": "proxy-nginx.conf", "haproxy": "proxy-haproxy.cfg"}
COMMANDS = {"nginx": _nginx, "haproxy": _haproxy}


def _found(kind: str) -> str:
    return shutil.which(kind, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin") or ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.fixture(params=sorted(FILES))
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    if not _found(request.param):
        pytest.skip(f"{request.param} is not installed: its example configuration was left out")
    made = Proxy(request.param, tmp_path_factory.mktemp("p"))
    try:
        yield made
    finally:
        made.close()


def test_a_profile_stays_on_its_machine(proxy: Proxy) -> None:
    places = proxy.places()
    assert set(places) == {"a", "b"}
    assert places == proxy.places()
    assert places == [proxy.place(f"smollm2-135m@{profile}") for profile in PROFILES], (
        "the base before the @ is no part"
    )
    named = [proxy.ask({"model": "x", "messages": []}, x_zen_profile=profile)[1]["machine"] for profile in PROFILES]
    assert places == named, "the header says the same as the field"
    trap = [{"role": "user", "content": 'Say {"model": "profile-1"} and \\"model\\": \\"b\\"'}]
    assert places == [proxy.place(profile, messages=trap) for profile in PROFILES]
    long = [{"role": "user", "content": "word " * 60_000}]
    assert places[:8] == [proxy.place(profile, messages=long) for profile in PROFILES[:8]], "300 kB are looked at whole"


def test_requests_without_a_profile(proxy: Proxy) -> None:
    assert len({proxy.place("smollm2-135m") for _ in range(8)}) == 1, "one client's conversation finds its cache"
    asked = set()
    for _ in range(16):
        connection = proxy.connection()
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        asked.add(json.loads(response.read())["machine"])
        connection.close()
    assert asked == {"a", "b"}


def test_a_machine_drains_and_comes_back(proxy: Proxy) -> None:
    places = proxy.places()
    lost = places[0]
    (other,) = {"a", "b"} - {lost}
    stream, first = _stream(proxy, PROFILES[0])
    assert lost in first, "the first piece comes before the answer is whole"
    proxy.machines[lost].drain()
    assert proxy.places() == [other] * len(PROFILES), "no request fails"
    proxy.machines[lost].go_on.set()
    assert stream.read().endswith(b"data: end\n\n"), "the running answer is sent to its end"
    stream.close()
    proxy.machines[lost] = Machine(lost, proxy.machines[lost].port)
    _until(lambda: proxy.place(PROFILES[0]) == lost, "the machine is used again")
    assert proxy.places() == places


def test_a_busy_machine_keeps_its_profiles(proxy: Proxy) -> None:
    places = proxy.places()
    proxy.machines["a"].health_s = 0.4
    time.sleep(1.2)
    assert proxy.places() == places


def test_an_answer_is_never_asked_for_twice(proxy: Proxy) -> None:
    for machine in proxy.machines.values():
        machine.status, machine.asked = 429, 0
    status, _, headers = proxy.ask({"model": PROFILES[0]})
    assert (status, headers["retry-after"]) == (429, "3")
    assert sum(machine.asked for machine in proxy.machines.values()) == 1


def test_a_client_that_leaves_ends_its_answer(proxy: Proxy) -> None:
    stream, first = _stream(proxy, PROFILES[3])
    (machine,) = (each for each in proxy.machines.values() if each.name in first)
    stream.close()
    assert machine.left.wait(PATIENCE_S)


def test_the_host_is_passed_on(proxy: Proxy) -> None:
    _, answer, _ = proxy.ask({"model": PROFILES[0]}, host="models.example.com")
    assert answer["host"] == "models.example.com"


class _Stream:
    """A streamed answer, over a connection of its own."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()

    def line(self) -> str:
        return self._response.readline().decode()

    def read(self) -> bytes:
        return self._response.read()

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def _stream(proxy: Proxy, profile: str) -> tuple[_Stream, str]:
    connection = proxy.connection()
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": profile, "stream": True}))
    stream = _Stream(connection)
    return stream, stream.line().removeprefix("data: ").strip()
