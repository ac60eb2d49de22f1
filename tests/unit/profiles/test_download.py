"""A profile from a path or a real HTTP server, whole or refused; and which profiles stay in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.adapter.resident import Resident, ResidentProfiles
from zen_mlx.codec.parts import encode_sign
from zen_mlx.errors import DownloadError, FormatError
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write
from zen_mlx.profiles.download import download_profile


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "user_style.bitdelta"
    delta = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    info = {"name": "style", "created": "2026-01-01T00:00:00Z", "tool": "t", "method": "sign", "license": "not stated"}
    base = {
        "model": "tiny",
        "architecture": "llama",
        "weights": "ab" * 32,
        "tokenizer": "cd" * 32,
        "quantization": None,
        "verified": True,
    }
    tensors = {"layers.0.q.weight": DeltaTensor((64, 64), tuple(encode_sign(delta)))}
    write(Profile(info=info, base=base, metrics={}, target_count=4096, model_count=5000, tensors=tensors), path)
    return path


@pytest.fixture(scope="module")
def url(file: Path) -> Iterator[str]:
    body = file.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind = self.path.strip("/")
            if kind == "gone":
                self.send_error(404)
                return
            if kind == "moved":
                self.send_response(302)
                self.send_header("Location", "/whole")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.close_connection = True
            if kind == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n" % len(body) + body[:100])
                return
            data = b"<html>not a profile</html>" if kind == "html" else body
            length = 10**18 if kind == "huge" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if kind == "short" else data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_from_a_path(file: Path, tmp_path: Path) -> None:
    assert download_profile(str(file)).info["name"] == "style"
    junk = tmp_path / "junk.bitdelta"
    junk.write_bytes(b"junk")
    with pytest.raises(FormatError):
        download_profile(str(junk))


def test_from_a_url_with_progress(url: str, file: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    profile = download_profile(f"{url}/whole", lambda done, of: seen.append((done, of)))
    size = file.stat().st_size
    assert seen[-1] == (size, size)
    assert profile.path is None
    assert profile.sha256 == download_profile(str(file)).sha256
    assert download_profile(f"{url}/moved").sha256 == profile.sha256


@pytest.mark.parametrize("kind", ["short", "chunked", "gone", "huge"])
def test_what_does_not_arrive_is_a_download_error(url: str, kind: str) -> None:
    with pytest.raises(DownloadError) as caught:
        download_profile(f"{url}/{kind}")
    assert caught.value.path == f"{url}/{kind}"


@pytest.mark.parametrize("source", ["http://127.0.0.1:1/x", "http://[::1", "http://127.0.0.1:x/", "http://a b/"])
def test_nowhere(source: str) -> None:
    with pytest.raises(DownloadError):
        download_profile(source)


def test_what_is_no_profile_names_the_url(url: str) -> None:
    with pytest.raises(FormatError) as caught:
        download_profile(f"{url}/html")
    assert caught.value.path == f"{url}/html"


def test_the_least_recently_used_leaves_memory_first(file: Path) -> None:
    loads: list[str] = []

    def load(key: str) -> Resident:
        loads.append(key)
        return Resident.from_profile(download_profile(str(file)))

    size = Resident.from_profile(download_profile(str(file))).nbytes
    kept = ResidentProfiles(max_bytes=2 * size)
    first = kept.get("a", lambda: load("a"))
    kept.get("b", lambda: load("b"))
    assert kept.get("a", lambda: load("a")) is first
    kept.get("c", lambda: load("c"))
    assert len(kept) == 2
    assert kept.nbytes == 2 * size
    kept.get("a", lambda: load("a"))
    kept.get("b", lambda: load("b"))
    assert loads == ["a", "b", "c", "b"]
    tight = ResidentProfiles(max_bytes=1)
    for key in "ab":
        tight.get(key, lambda: load("x"))
        assert len(tight) == 1
    with pytest.raises(ZeroDivisionError):
        kept.get("d", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert len(kept) == 2
