"""Hub repositories against a server on this machine: fallback, resume, offline, damage; each pull is a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, serve

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


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve() as server:
        server.large_from_bytes = 1 << 40  # every file from the hub itself, under its name
        yield server


def fetched(hub: HubServer) -> set[str]:
    """The files that were downloaded."""
    return {seen.path.split("/", 5)[5] for seen in hub.gets("hub", "/resolve/")}


@pytest.fixture
def files(tiny_model: Path) -> dict[str, bytes]:
    files = {file.name: file.read_bytes() for file in tiny_model.iterdir()}
    return {**files, "modeling_evil.py": b"raise SystemExit", "README.md": b"#", "pytorch_model.bin": b"\x80"}


def pull(name: str, hub: HubServer, **env: str) -> dict[str, Any]:
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


def test_download_then_offline(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("acme/chat", files)
    first = pull("acme/chat", hub)
    folder = Path(first["path"])
    assert {file.name for file in folder.iterdir()} == WANTED, "weights, settings and tokenizer; never code"
    assert fetched(hub) == WANTED
    assert folder.is_relative_to(os.environ["HF_HOME"])
    total = sum(len(files[name]) for name in WANTED)
    assert first["calls"][-1][1] == total
    assert [call[1] for call in first["calls"]] == sorted(call[1] for call in first["calls"])

    before = len(hub.seen)
    assert pull("acme/chat", hub)["path"] == first["path"]
    assert pull("acme/chat", hub, HF_HUB_OFFLINE="1")["local"] == first["path"]
    assert len(hub.seen) == before, "what is here is not asked for again"


def test_alias_falls_back_to_the_second_repository(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("zenlm/zen-eco-4b-instruct", files)
    out = pull("zen-nano-4b", hub)
    assert "zen-eco-4b-instruct" in out["path"]
    assert any("zenlm/zen-nano-4b-instruct" in seen.path for seen in hub.seen), "the first was tried"
    assert pull("zen-nano-4b", hub, HF_HUB_OFFLINE="1")["path"] == out["path"]


def test_first_repository_wins(hub: HubServer, files: dict[str, bytes]) -> None:
    for name in ("zenlm/zen-nano-4b-instruct", "zenlm/zen-eco-4b-instruct"):
        hub.add(name, files)
    assert "zen-nano-4b-instruct" in pull("zen-nano-4b", hub)["path"]


def test_no_such_repository(hub: HubServer) -> None:
    out = pull("zen-nano-4b", hub)
    assert (out["error"]["type"], out["code"]) == ("ModelNotFoundError", 2)
    assert "zenlm/zen-nano-4b-instruct nor zenlm/zen-eco-4b-instruct" in out["error"]["message"]


def test_gated_repository(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("acme/chat", files, gated=True)
    out = pull("acme/chat", hub)
    assert out["error"]["type"] == "DownloadError"
    assert "HF_TOKEN" in out["error"]["hint"]


def test_connection_dropped_in_the_middle_of_a_file(hub: HubServer, files: dict[str, bytes]) -> None:
    large = bytes(25_000_000)  # huggingface_hub keeps what arrived in pieces of 10 MiB
    hub.add("acme/chat", {**files, "merges.txt": large})
    hub.cuts["merges.txt"] = [12_500_000]
    folder = Path(pull("acme/chat", hub)["path"])
    assert (folder / "merges.txt").read_bytes() == large
    assert [seen.range for seen in hub.gets("hub") if seen.range] == [f"bytes={10 << 20}-"], (
        "only the rest was fetched again"
    )


def test_a_failed_download_is_not_a_model_and_the_next_try_resumes(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("acme/chat", files)
    hub.cuts["model.safetensors"] = [1000] * 100
    out = pull("acme/chat", hub)
    assert (out["error"]["type"], out["code"], out["local"]) == ("DownloadError", 1, None)
    assert "try again" in out["error"]["hint"]
    hub.cuts.clear()
    hub.seen.clear()
    folder = Path(pull("acme/chat", hub)["path"])
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert fetched(hub) == {"model.safetensors"}, "what had arrived whole was kept"


def test_offline_and_not_here(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("acme/chat", files)
    out = pull("acme/chat", hub, HF_HUB_OFFLINE="1")
    assert out["error"]["type"] == "DownloadError"
    assert "HF_HUB_OFFLINE" in out["error"]["message"]
    assert not hub.seen


def test_hub_that_is_down_or_gone(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("acme/chat", files)
    hub.down = True
    assert pull("acme/chat", hub)["error"]["type"] == "DownloadError"
    out = pull("acme/chat", hub, HF_ENDPOINT="http://127.0.0.1:9")
    assert out["error"]["type"] == "DownloadError"
    assert "check the connection" in out["error"]["hint"]


def test_damaged_weights_name_the_file(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("acme/chat", {**files, "model.safetensors": files["model.safetensors"][:-7]})
    out = pull("acme/chat", hub)
    assert (out["error"]["type"], out["code"]) == ("ModelFormatError", 2)
    assert out["error"]["path"].endswith("model.safetensors")


def test_weights_that_the_index_promises_are_missing(hub: HubServer, files: dict[str, bytes]) -> None:
    index = json.dumps({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}).encode()
    hub.add("acme/chat", {**files, "model.safetensors.index.json": index})
    out = pull("acme/chat", hub)
    assert out["error"]["type"] == "ModelFormatError"
    assert out["local"] is None
