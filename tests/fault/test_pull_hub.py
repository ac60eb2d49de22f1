"""Hub repositories against a server on this machine: fallback, resume, offline, damage; each pull is a process of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# huggingface_hub's own log of a dropped connection.
RETRIES = ("Error while downloading from http", "Trying to resume download", "Max retries exceeded")
PULL = """
import json, sys
from zen_mlx.base import pull
from zen_mlx.errors import ZenError
calls = []
try:
    path = str(pull.pull(sys.argv[1], lambda *call: calls.append(call)))
    print(json.dumps({"path": path, "local": str(pull.local_path(sys.argv[1])), "calls": calls}))
except ZenError as error:
    print(json.dumps({"error": error.to_dict(), "code": error.exit_code, "local": pull.local_path(sys.argv[1])}, default=str))
"""


@dataclasses.dataclass
class Hub:
    """A hub that serves `repos` (name -> file -> bytes) and misbehaves as told."""

    repos: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    drops: int = 0  # how many more answers for `dropped` end in the middle
    dropped: str = "model.safetensors"
    down: bool = False
    gated: bool = False
    asked: list[tuple[str, str, str | None]] = dataclasses.field(default_factory=list)
    endpoint: str = ""

    def fetched(self, repo: str) -> set[str]:
        """The files of `repo` that were downloaded."""
        found = (re.match(rf"/{repo}/resolve/\w+/(.+)", path) for method, path, _ in self.asked if method == "GET")
        return {match[1] for match in found if match}

    def ranges(self) -> list[str]:
        return [value for method, _, value in self.asked if method == "GET" and value is not None]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.hub.down:
            self._send(503, b"down")
            return
        match = re.match(r"/(?:api/models/)?([^/]+/[^/]+)(/.*)?$", path)
        repo, rest = (match[1], match[2] or "") if match else ("", "")
        files = self.hub.repos.get(repo)
        if self.hub.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/") and "/tree/" in rest:
            tree = [{"type": "file", "path": n, "size": len(d), "oid": etag(d)} for n, d in files.items()]
            self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in files]
            body = {"id": repo, "modelId": repo, "sha": "c" * 40, "siblings": siblings, "private": False, "tags": []}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        else:
            self._file(files, rest)

    def _file(self, files: dict[str, bytes], rest: str) -> None:
        name = rest.split("/", 3)[3]
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = files[name]
        headers = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": "c" * 40, "Accept-Ranges": "bytes"}
        status, wanted = 200, self.headers.get("Range")
        if wanted is not None:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        drop = self.command == "GET" and name == self.hub.dropped and self.hub.drops > 0
        self._send(status, data, headers, drop=drop)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, drop: bool = False) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if drop:
            self.hub.drops -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(body)


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    server.daemon_threads = True
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def files(tiny_model: Path) -> dict[str, bytes]:
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    return {**files, "modeling_evil.py": b"raise SystemExit", "README.md": b"#", "pytorch_model.bin": b"\x80"}


def pull(name: str, hub: Hub, **env: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PULL, name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_ETAG_TIMEOUT": "5",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            **env,
        },
    )
    assert done.returncode == 0, done.stderr
    noise = [line for line in done.stderr.splitlines() if not line.startswith(RETRIES)]
    assert not noise, "a library prints nothing"
    out: dict[str, Any] = json.loads(done.stdout)
    return out


WANTED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_download_then_offline(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["acme/chat"] = files
    first = pull("acme/chat", hub)
    folder = Path(first["path"])
    assert {file.name for file in folder.iterdir()} == WANTED, "weights, settings and tokenizer; never code"
    assert hub.fetched("acme/chat") == WANTED
    assert folder.is_relative_to(os.environ["HF_HOME"])
    total = sum(len(files[name]) for name in WANTED)
    assert first["calls"][-1][1] == total
    assert [call[1] for call in first["calls"]] == sorted(call[1] for call in first["calls"])

    before = len(hub.asked)
    assert pull("acme/chat", hub)["path"] == first["path"]
    assert pull("acme/chat", hub, HF_HUB_OFFLINE="1")["local"] == first["path"]
    assert len(hub.asked) == before, "what is here is not asked for again"


def test_alias_falls_back_to_the_second_repository(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["zenlm/zen-eco-4b-instruct"] = files
    out = pull("zen-nano-4b", hub)
    assert "zen-eco-4b-instruct" in out["path"]
    assert any("zenlm/zen-nano-4b-instruct" in path for _, path, _ in hub.asked), "the first was tried"
    assert pull("zen-nano-4b", hub, HF_HUB_OFFLINE="1")["path"] == out["path"]


def test_first_repository_wins(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos.update({"zenlm/zen-nano-4b-instruct": files, "zenlm/zen-eco-4b-instruct": files})
    assert "zen-nano-4b-instruct" in pull("zen-nano-4b", hub)["path"]


def test_no_such_repository(hub: Hub) -> None:
    out = pull("zen-nano-4b", hub)
    assert (out["error"]["type"], out["code"]) == ("ModelNotFoundError", 2)
    assert "zenlm/zen-nano-4b-instruct nor zenlm/zen-eco-4b-instruct" in out["error"]["message"]


def test_gated_repository(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["acme/chat"] = files
    hub.gated = True
    out = pull("acme/chat", hub)
    assert out["error"]["type"] == "DownloadError"
    assert "HF_TOKEN" in out["error"]["hint"]


def test_connection_dropped_in_the_middle_of_a_file(hub: Hub, files: dict[str, bytes]) -> None:
    large = bytes(25_000_000)  # huggingface_hub keeps what arrived in pieces of 10 MiB
    hub.repos["acme/chat"] = {**files, "merges.txt": large}
    hub.drops, hub.dropped = 1, "merges.txt"
    folder = Path(pull("acme/chat", hub)["path"])
    assert (folder / "merges.txt").read_bytes() == large
    assert hub.ranges() == [f"bytes={10 << 20}-"], "only the rest was fetched again"


def test_a_failed_download_is_not_a_model_and_the_next_try_resumes(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["acme/chat"] = files
    hub.drops = 1000
    out = pull("acme/chat", hub)
    assert (out["error"]["type"], out["code"], out["local"]) == ("DownloadError", 1, None)
    assert "try again" in out["error"]["hint"]
    hub.drops = 0
    hub.asked.clear()
    folder = Path(pull("acme/chat", hub)["path"])
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert hub.fetched("acme/chat") == {"model.safetensors"}, "what had arrived whole was kept"


def test_offline_and_not_here(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["acme/chat"] = files
    out = pull("acme/chat", hub, HF_HUB_OFFLINE="1")
    assert out["error"]["type"] == "DownloadError"
    assert "HF_HUB_OFFLINE" in out["error"]["message"]
    assert not hub.asked


def test_hub_that_is_down_or_gone(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["acme/chat"] = files
    hub.down = True
    assert pull("acme/chat", hub)["error"]["type"] == "DownloadError"
    out = pull("acme/chat", hub, HF_ENDPOINT="http://127.0.0.1:9")
    assert out["error"]["type"] == "DownloadError"
    assert "check the connection" in out["error"]["hint"]


def test_damaged_weights_name_the_file(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["acme/chat"] = {**files, "model.safetensors": files["model.safetensors"][:-7]}
    out = pull("acme/chat", hub)
    assert (out["error"]["type"], out["code"]) == ("ModelFormatError", 2)
    assert out["error"]["path"].endswith("model.safetensors")


def test_weights_that_the_index_promises_are_missing(hub: Hub, files: dict[str, bytes]) -> None:
    index = json.dumps({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}).encode()
    hub.repos["acme/chat"] = {**files, "model.safetensors.index.json": index}
    out = pull("acme/chat", hub)
    assert out["error"]["type"] == "ModelFormatError"
    assert out["local"] is None
