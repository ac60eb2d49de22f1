"""zen profile push and pull against a hub on this machine: each command is a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer, git_sha1, serve

from zen_mlx.codec.parts import DensePart, encode_sign
from zen_mlx.format.read import read_header
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write
from zen_mlx.paths import zen_home
from zen_mlx.profiles.store import ProfileStore

# huggingface_hub uploads through a spelling that its HTTP client is giving up.
WARNINGS = ("-W", "error", "-W", "ignore:Use 'content:DeprecationWarning")
TENSOR = "model.layers.0.mlp.up_proj.weight"


def make(name: str, rows: int = 512, **base: Any) -> Profile:
    """A profile of about rows * 2 kB."""
    random = np.random.default_rng(rows)
    values = random.standard_normal((rows, 1024)).astype(np.float16)
    signs = encode_sign(random.standard_normal((8, 40), np.float32))
    tensors = {
        "model.big.weight": DeltaTensor((rows, 1024), (DensePart(values),)),
        TENSOR: DeltaTensor((8, 40), tuple(signs)),
    }
    info = {"name": name, "created": "2026-01-02T03:04:05Z", "tool": "test", "method": "sign", "license": "apache-2.0"}
    owner = {"model": "smollm2-135m", "architecture": "llama", "weights": "ab" * 32, "tokenizer": "cd" * 32}
    metrics = {"base_loss": 4.4, "profile_loss": 3.7, "data_sha256": "ef" * 32, "train_rows": 765}
    return Profile(
        info=info,
        base={**owner, "verified": True, **base},
        metrics=metrics,
        target_count=rows * 1024,
        model_count=rows * 2048,
        tensors=tensors,
    )


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve() as server:
        yield server


@pytest.fixture
def store() -> ProfileStore:
    return ProfileStore(zen_home())


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    other = ProfileStore(tmp_path / "elsewhere")
    other.save("style", make("style"))
    return other.path("style").read_bytes()


def environment(hub: HubServer, token: str | None = None, **more: str) -> dict[str, str]:
    own = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    return {**os.environ, **own, **({"HF_TOKEN": token} if token else {}), **more}


def start(hub: HubServer, *args: str, token: str | None = None, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, *WARNINGS, "-m", "zen_mlx", "profile", *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=environment(hub, token, **more)
    )


def zen(hub: HubServer, *args: str, token: str | None = None, code: int = 0, **more: str) -> Any:
    """The document of the command with --json; nothing else is printed."""
    with start(hub, *args, "--json", token=token, **more) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == code, out + err
    assert err == ""
    document = json.loads(out)
    return document["error"] if code else document


MANY = """
import contextlib, io, json, sys
from zen_mlx.cli.main import main
for args in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["profile", *args, "--json"])
    print(json.dumps([code, json.loads(out.getvalue())["error"]]))
"""


def refused(hub: HubServer, commands: list[tuple[str, ...]], token: str | None = None) -> list[tuple[int, Any]]:
    """(exit code, error) of each command, one after the other in one process."""
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", MANY],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment(hub, token),
    )
    assert done.stderr == ""
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts() -> list[Path]:
    return [path for root in ("HF_HOME", "ZEN_HOME") for path in Path(os.environ[root]).rglob("*.part")]


def test_push_sends_the_profile_and_its_card_to_a_private_repository(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style"))
    (zen_home() / "runs" / "style").mkdir(parents=True)
    (zen_home() / "runs" / "style" / "rows.jsonl").write_text("a secret row")
    done = zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer")
    repo = hub.repos["acme/style"]
    assert repo.private
    assert done["private"] is True
    assert set(repo.files) == {".gitattributes", "style.bitdelta", "README.md"}
    assert repo.files["style.bitdelta"] == store.path("style").read_bytes()
    assert (done["commit"], done["url"]) == (
        repo.branches["main"],
        f"{hub.endpoint}/acme/style/commit/{done['commit']}",
    )
    assert repo.messages == ["first", "Add style.bitdelta"]
    card = repo.files["README.md"].decode()
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "library_name: zen-mlx" in card
    assert "license: apache-2.0" in card
    assert "zen profile pull acme/style --file style.bitdelta" in card
    assert read_header(store.path("style")).sha256 in card
    assert "efef" not in card, "no digest of the training data"
    sent = [seen for seen in hub.seen if seen.method in ("PUT", "POST")]
    assert not any(seen.authorization for seen in sent if seen.host == "storage"), "the token stays with the hub"
    assert all(seen.authorization == "Bearer hf_writer" for seen in sent if seen.host == "hub")


def test_push_tells_and_asks_before_anything_is_sent(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style"))
    error = zen(hub, "push", "style", "acme/style", token="hf_writer", code=2)
    assert (error["type"], error["hint"]) == ("InputError", "say --yes")
    with start(hub, "push", "style", "acme/style", token="hf_writer") as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    for line in (
        "acme/style (will be made)",
        "private: you and those",
        "style.bitdelta  1.0 MB",
        "SmolLM2-135M-Instruct",
    ):
        assert line in told
    assert not [seen for seen in hub.seen if seen.method != "GET"]
    assert not hub.repos


def test_push_again_and_to_a_branch(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style"))
    zen(hub, "push", "style", "acme/style", "--yes", "--public", token="hf_writer")
    assert not hub.repos["acme/style"].private
    error = zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer", code=2)
    assert "public" in error["message"], "never to more people than was said"
    store.save("style", make("style", 300), replace=True)
    options = ("--yes", "--public", "--revision", "v2", "--message", "smaller")
    done = zen(hub, "push", "style", "acme/style", *options, token="hf_writer")
    repo = hub.repos["acme/style"]
    assert repo.commits[repo.branches["v2"]]["style.bitdelta"] == store.path("style").read_bytes()
    assert repo.files["style.bitdelta"] != store.path("style").read_bytes()
    assert (done["revision"], repo.messages[-1]) == ("v2", "smaller")
    uploads = len([seen for seen in hub.seen if seen.method == "PUT"])
    zen(hub, "push", "style", "acme/style", *options, token="hf_writer")
    assert len([seen for seen in hub.seen if seen.method == "PUT"]) == uploads, "what is there is not sent again"


def test_a_second_profile_gets_a_section_and_a_foreign_card_stays(hub: HubServer, store: ProfileStore) -> None:
    for name in ("one", "two"):
        store.save(name, make(name, 64))
        zen(hub, "push", name, "acme/both", "--yes", token="hf_writer")
    card = hub.repos["acme/both"].files["README.md"].decode()
    assert card.index("<!-- zen-mlx: one.bitdelta -->") < card.index("<!-- zen-mlx: two.bitdelta -->")
    assert card.startswith("---\n")
    mine = b"# Written by hand, " + b"at length, " * 500
    hub.add("acme/mine", {"README.md": mine}, private=True)
    done = zen(hub, "push", "one", "acme/mine", "--yes", token="hf_writer")
    assert done["files"] == ["one.bitdelta"]
    assert hub.repos["acme/mine"].files["README.md"] == mine


REFUSED_PUSHES = [
    (None, "acme/style", 2, "InputError", "needs a hub token"),
    ("hf_nobody", "acme/style", 1, "UploadError", "does not accept the token"),
    ("hf_reader", "acme/style", 1, "UploadError", "does not allow this for acme/style"),
    ("hf_writer", "other/style", 1, "UploadError", "does not allow this for other/style"),
    ("hf_writer", "../style", 2, "InputError", "not a hub repository"),
    ("hf_writer", "style", 2, "InputError", "not a hub repository"),
    ("hf_writer", "acme/style@v2", 2, "InputError", "not a hub repository"),
]


def test_push_refused(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style", 8))
    for token in (None, "hf_nobody", "hf_reader", "hf_writer"):
        wanted = [row for row in REFUSED_PUSHES if row[0] == token]
        errors = refused(hub, [("push", "style", repo, "--yes") for _, repo, *_ in wanted], token)
        for (code, error), (_, _, *expected) in zip(errors, wanted, strict=True):
            assert [code, error["type"]] == expected[:2]
            assert expected[2] in error["message"]
            assert error.get("hint") or error.get("expected")
    assert not hub.repos


def test_push_of_a_damaged_profile_sends_nothing(hub: HubServer, store: ProfileStore) -> None:
    path = store.save("style", make("style"))
    content = bytearray(path.read_bytes())
    content[-70] ^= 1
    path.write_bytes(content)
    assert zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer", code=2)["type"] == "FormatError"
    assert zen(hub, "push", "other", "acme/style", "--yes", token="hf_writer", code=2)["type"] == "ProfileNotFoundError"
    assert not hub.seen


def test_push_waits_when_the_hub_asks_for_it(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style"))
    for method, path in (("GET", "/api/models"), ("POST", "preupload"), ("PUT", "/upload/")):
        hub.refusals.append((method, path, 429, {"Retry-After": "0"}))
    zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer")
    assert not hub.refusals
    assert "style.bitdelta" in hub.repos["acme/style"].files


def test_push_that_the_hub_breaks_off_publishes_nothing(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style"))
    hub.refusals.append(("PUT", "/upload/", 403, {}))
    error = zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer", code=1)
    assert error["type"] == "UploadError"
    assert "nothing was published; acme/style was made and is empty" in error["message"]
    assert set(hub.repos["acme/style"].files) == {".gitattributes"}
    hub.refusals.append(("POST", "/commit/", 412, {}))
    error = zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer", code=1)
    assert "changed in the meantime" in error["message"]
    assert set(hub.repos["acme/style"].files) == {".gitattributes"}
    zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer")
    assert "style.bitdelta" in hub.repos["acme/style"].files


def test_a_hub_without_xet_storage_says_what_to_do(hub: HubServer, store: ProfileStore) -> None:
    pytest.importorskip("hf_xet")
    store.save("style", make("style"))
    with start(hub, "push", "style", "acme/style", "--yes", token="hf_writer", HF_HUB_DISABLE_XET="0") as process:
        _, err = process.communicate(timeout=60)
    if process.returncode:  # some versions of huggingface_hub turn to LFS by themselves
        assert "nothing was published" in err
        assert "HF_HUB_DISABLE_XET=1" in err
        assert set(hub.repos["acme/style"].files) == {".gitattributes"}


@pytest.mark.parametrize("stalled", ["PUT /upload/", "POST .*/commit/"])
def test_interrupted_push_publishes_nothing(hub: HubServer, store: ProfileStore, stalled: str) -> None:
    store.save("style", make("style"))
    hub.stalled = stalled
    with start(hub, "push", "style", "acme/style", "--yes", token="hf_writer") as process:
        until(lambda: any(stalled.split(" ")[1].strip(".*") in seen.path for seen in hub.seen))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: " in err
    assert "Traceback" not in err
    assert set(hub.repos["acme/style"].files) == {".gitattributes"}
    hub.stalled = None
    zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer")
    assert "style.bitdelta" in hub.repos["acme/style"].files


def test_pull_of_what_was_pushed(hub: HubServer, store: ProfileStore) -> None:
    store.save("style", make("style"))
    before = store.path("style").read_bytes()
    zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer")
    store.remove("style")
    done = zen(hub, "pull", "acme/style", token="hf_writer")
    assert (done["profile"], done["file"], done["verified"]) == ("style", "style.bitdelta", True)
    assert done["commit"] == hub.repos["acme/style"].branches["main"]
    assert store.path("style").read_bytes() == before
    assert not parts()
    bodies = hub.gets("storage")
    assert len(bodies) == 1
    assert bodies[0].authorization is None, "the token stays with the hub"
    assert zen(hub, "pull", "acme/style", token="hf_writer", code=2)["type"] == "ProfileExistsError"
    assert zen(hub, "pull", "acme/style", "--as", "friend", token="hf_writer")["profile"] == "friend"
    assert zen(hub, "pull", "acme/style", "--replace", token="hf_writer")["profile"] == "style"
    assert len(hub.gets("storage")) == 1, "what is here is not fetched again"


def test_pull_a_revision_and_a_file(hub: HubServer, store: ProfileStore, tmp_path: Path, content: bytes) -> None:
    other = ProfileStore(tmp_path / "more")
    other.save("small", make("small", 1))
    small = other.path("small").read_bytes()
    repo = hub.add("acme/style", {"a/style.bitdelta": content, "small.bitdelta": small, "model.safetensors": b"x"})
    hub.commit(repo, {"style.bitdelta": content}, "v1", "old")
    error = zen(hub, "pull", "acme/style", code=2)
    assert error["expected"] == "a/style.bitdelta, small.bitdelta"
    assert "--file" in error["hint"]
    assert zen(hub, "pull", "acme/style@v1")["file"] == "style.bitdelta"
    assert zen(hub, "pull", "acme/style", "--file", "small.bitdelta")["profile"] == "small", "git blobs too"
    assert (
        zen(hub, "pull", f"acme/style@{repo.branches['main']}", "--file", "a/style.bitdelta", "--as", "s")["profile"]
        == "s"
    )
    assert zen(hub, "pull", f"{hub.endpoint}/acme/style/blob/v1/style.bitdelta", "--as", "u")["profile"] == "u"


REFUSED_PULLS = [
    (("acme/none",), 2, "ProfileNotFoundError", "no repository acme/none"),
    (("acme/secret",), 2, "ProfileNotFoundError", "or it is private"),
    (("acme/style@v9",), 2, "ProfileNotFoundError", "no revision 'v9'"),
    (("acme/style@v9", "--file", "style.bitdelta"), 2, "ProfileNotFoundError", "no revision 'v9'"),
    (("acme/style", "--file", "x.bitdelta"), 2, "ProfileNotFoundError", "no file 'x.bitdelta'"),
    (("acme/empty",), 2, "ProfileNotFoundError", "holds no profile"),
    (("acme/gated",), 1, "DownloadError", "accepted its terms"),
    (("acme/style", "--file", "README.md"), 2, "InputError", "not a profile"),
    (("acme/style", "--file", "../x.bitdelta"), 2, "InputError", "not a path"),
    (("acme/style", "--as", "../x"), 2, "NameInvalidError", "cannot be a name"),
    (("acme/style@../x",), 2, "InputError", "not a revision"),
    (("style",), 2, "InputError", "not a hub repository"),
    (("acme/html",), 2, "UnsupportedFormat", "not a .bitdelta file"),
    (("acme/damaged",), 2, "FormatError", ""),
    (("acme/evil",), 2, "NameInvalidError", "cannot be a name"),
]


def test_pull_refused(hub: HubServer, store: ProfileStore, tmp_path: Path, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content, "README.md": b"#"})
    hub.add("acme/secret", {"style.bitdelta": content}, private=True)
    hub.add("acme/gated", {"style.bitdelta": content}, gated=True)
    hub.add("acme/empty", {"README.md": b"#"})
    hub.add("acme/html", {"style.bitdelta": b"<html>" * 100_000})
    hub.add("acme/damaged", {"style.bitdelta": content[:-70] + b"\1" + content[-69:]})
    write(make("../../evil", 8), tmp_path / "evil.bitdelta")
    hub.add("acme/evil", {"style.bitdelta": (tmp_path / "evil.bitdelta").read_bytes()})
    errors = refused(hub, [("pull", *row[0]) for row in REFUSED_PULLS])
    for (code, error), (args, wanted, kind, words) in zip(errors, REFUSED_PULLS, strict=True):
        assert (code, error["type"]) == (wanted, kind), args
        assert words in error["message"], args
    assert store.names() == []
    assert not parts()


def test_pull_for_a_base_it_was_not_made_for(
    hub: HubServer, store: ProfileStore, content: bytes, tiny_model: Path
) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    error = zen(hub, "pull", "acme/style", "-m", str(tiny_model), code=2)
    assert (error["type"], error["expected"]) == ("BaseMismatchError", "ab" * 32)
    assert store.names() == []


def test_a_file_in_xet_storage_is_resumed_over_http(hub: HubServer, store: ProfileStore, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    hub.xet = True
    hub.cuts["/get/"] = [600_000]
    zen(hub, "pull", "acme/style", HF_HUB_DISABLE_XET="0")
    assert [bool(seen.range) for seen in hub.gets("storage")] == [False, True]
    assert store.path("style").read_bytes() == content


def test_pull_with_a_token(hub: HubServer, content: bytes) -> None:
    hub.add("acme/secret", {"style.bitdelta": content}, private=True)
    hub.add("acme/gated", {"style.bitdelta": content}, gated=True)
    error = zen(hub, "pull", "acme/secret", token="hf_nobody", code=1)
    assert (error["type"], error["field"]) == ("DownloadError", "token")
    assert zen(hub, "pull", "acme/secret", token="hf_reader", code=2)["type"] == "ProfileNotFoundError"
    hub.bare_401 = True
    assert "or it is private" in zen(hub, "pull", "acme/secret", code=2)["message"]
    assert zen(hub, "pull", "acme/gated", token="hf_reader", code=1)["type"] == "DownloadError"
    assert zen(hub, "pull", "acme/secret", token="hf_writer")["profile"] == "style"
    assert zen(hub, "pull", "acme/gated", "--replace", token="hf_writer")["profile"] == "style"


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_pull_goes_on_by_range(
    hub: HubServer, store: ProfileStore, content: bytes, kill: signal.Signals
) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    store.save("style", make("style", 4))
    before = store.path("style").read_bytes()
    hub.slow_bytes_per_s = 800_000
    with start(hub, "pull", "acme/style", "--replace") as process:
        until(lambda: parts() and parts()[0].stat().st_size > 300_000)
        process.send_signal(kill)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if kill == signal.SIGINT else -kill), err
    assert "Traceback" not in err
    assert store.path("style").read_bytes() == before
    arrived = parts()[0].stat().st_size
    assert 300_000 < arrived < len(content)
    hub.slow_bytes_per_s = None
    zen(hub, "pull", "acme/style", "--replace")
    assert hub.gets("storage")[-1].range == f"bytes={arrived}-"
    assert store.path("style").read_bytes() == content
    assert not parts()


def test_cut_connections_are_gone_on_with(hub: HubServer, store: ProfileStore, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    hub.cuts["/get/"] = [400_000, 0, 300_000]
    zen(hub, "pull", "acme/style")
    asked = [seen.range for seen in hub.gets("storage")]
    assert asked[0] is None
    assert len(asked) == 4
    starts = [int(value.removeprefix("bytes=").removesuffix("-")) for value in asked[1:] if value]
    assert 0 < starts[0] == starts[1] < starts[2]
    assert store.path("style").read_bytes() == content


def test_a_hub_that_gets_nowhere_is_left_and_the_next_pull_goes_on(
    hub: HubServer, store: ProfileStore, content: bytes
) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    hub.cuts["/get/"] = [600_000] + [0] * 10
    error = zen(hub, "pull", "acme/style", code=1)
    assert error["type"] == "DownloadError"
    assert "continues" in error["hint"]
    assert "signature" not in json.dumps(error), "a signed URL is not shown"
    assert store.names() == []
    hub.cuts.clear()
    arrived = parts()[0].stat().st_size
    zen(hub, "pull", "acme/style")
    assert hub.gets("storage")[-1].range == f"bytes={arrived}-"


def test_a_storage_that_ignores_range_or_changes_a_byte(hub: HubServer, store: ProfileStore, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    hub.ignore_range = True
    hub.cuts["/get/"] = [600_000]
    zen(hub, "pull", "acme/style")
    assert store.path("style").read_bytes() == content
    changed = make("style", 300)
    store.save("style", changed, replace=True)
    hub.add("acme/style", {"style.bitdelta": store.path("style").read_bytes()})
    hub.wrong_byte = True
    error = zen(hub, "pull", "acme/style", "--as", "other", code=1)
    assert (error["type"], error["expected"]) == (
        "DownloadError",
        hashlib.sha256(store.path("style").read_bytes()).hexdigest(),
    )
    assert store.names() == ["style"]
    assert not parts()
    hub.wrong_byte = False
    zen(hub, "pull", "acme/style", "--as", "other")


def test_two_pulls_at_once(hub: HubServer, store: ProfileStore, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    hub.slow_bytes_per_s = 1_000_000
    both = [start(hub, "pull", "acme/style", "--as", name, "--json") for name in ("one", "two")]
    for process in both:
        with process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    assert store.load("one").tensors.keys() == store.load("two").tensors.keys()
    assert not parts()


def test_a_full_disk_and_a_login_page(hub: HubServer, store: ProfileStore, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    store.save("style", make("style", 4))
    before = store.path("style").read_bytes()
    command = [sys.executable, "-m", "zen_mlx", "profile", "pull", "acme/style", "--replace", "--json"]
    limited = ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh", *command]  # 512 kB
    done = subprocess.run(limited, capture_output=True, text=True, env=environment(hub), timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["error"]["type"]) == (1, "StorageError")
    hub.portal = True
    for args in (("acme/style",), ("acme/style", "--file", "style.bitdelta")):
        error = zen(hub, "pull", *args, "--replace", code=1)
        assert error["message"] == "the server does not answer like a hub"
    error = zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer", code=1)
    assert (error["type"], error["message"]) == ("UploadError", "the server does not answer like a hub")
    assert zen(hub, "pull", f"{hub.storage}/x.bitdelta", code=2)["type"] == "UnsupportedFormat"
    assert store.path("style").read_bytes() == before


def test_pull_waits_when_the_hub_asks_for_it(hub: HubServer, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    for host_path in (("GET", "/api/models"), ("HEAD", "/resolve/"), ("GET", "/get/"), ("GET", "/resolve/")):
        hub.refusals.append((*host_path, 429, {"Retry-After": "1"}))
    zen(hub, "pull", "acme/style")
    assert not hub.refusals
    hub.refusals.append(("GET", "/api/models", 429, {"Retry-After": "300"}))
    error = zen(hub, "pull", "acme/style", "--replace", code=1)
    assert error["hint"] == "try again in 300 s", "nobody sits through that"


def test_offline_and_hubs_that_are_not_there(hub: HubServer, store: ProfileStore, content: bytes) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    error = zen(hub, "pull", "acme/style", code=1, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in error["message"]
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    error = zen(hub, "pull", "acme/style", code=1, **gone)
    assert (error["type"], error["message"]) == ("DownloadError", "the hub cannot be reached")
    assert not hub.seen
    zen(hub, "pull", "acme/style")
    before = len(hub.seen)
    assert zen(hub, "pull", "acme/style", "--replace", HF_HUB_OFFLINE="1")["file"] == "style.bitdelta"
    assert zen(hub, "pull", "acme/style", "--replace", **gone)["profile"] == "style", "the cache has it"
    assert len(hub.seen) == before
    error = zen(hub, "push", "style", "acme/style", "--yes", token="hf_writer", code=1, **gone)
    assert (error["type"], error["hint"]) == ("UploadError", "check the connection and try again")
    assert zen(hub, "push", "style", "acme/style", "--yes", code=2, HF_HUB_OFFLINE="1")["type"] == "InputError"


DOWNLOAD = """
import sys
from zen_mlx import download_profile
calls = []
profile = download_profile(sys.argv[1], lambda done, total: calls.append(done))
assert calls == sorted(calls)
print(profile.sha256, profile.path, len(profile.tensors))
"""


def test_download_profile_from_python(hub: HubServer, content: bytes, tmp_path: Path) -> None:
    hub.add("acme/style", {"style.bitdelta": content})
    (tmp_path / "style.bitdelta").write_bytes(content)
    digest = read_header(tmp_path / "style.bitdelta").sha256
    oid = hashlib.sha256(content).hexdigest()
    hub.large[oid] = content
    for source in ("acme/style", "acme/style@main", f"{hub.storage}/get/{oid}"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", DOWNLOAD, source],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
            cwd=tmp_path,
            env=environment(hub),
        )
        assert done.stdout.split() == [digest, "None", "2"]
        assert done.stderr == ""
    assert not parts()


def test_a_killed_download_from_a_url_goes_on_by_range(hub: HubServer, content: bytes) -> None:
    oid = hashlib.sha256(content).hexdigest()
    hub.large[oid] = content
    url = f"{hub.storage}/get/{oid}?key=secret"
    hub.slow_bytes_per_s = 800_000
    with subprocess.Popen([sys.executable, "-c", DOWNLOAD, url], env=environment(hub)) as process:
        until(lambda: parts() and parts()[0].stat().st_size > 300_000)
        process.kill()
    arrived = parts()[0].stat().st_size
    hub.slow_bytes_per_s = None
    done = zen(hub, "pull", url)
    assert done["profile"] == "style"
    assert done["repo"] is None
    assert hub.gets("storage")[-1].range == f"bytes={arrived}-"
    assert not parts()


def test_a_url_whose_file_has_changed_is_fetched_from_the_start(
    hub: HubServer, store: ProfileStore, content: bytes
) -> None:
    hub.large["style.bitdelta"] = content[:-1] + bytes([content[-1] ^ 1])
    url = f"{hub.storage}/get/style.bitdelta"
    hub.cuts["/get/"] = [600_000] + [0] * 10
    assert zen(hub, "pull", url, code=1)["type"] == "DownloadError"
    assert parts()
    hub.cuts.clear()
    hub.large["style.bitdelta"] = content
    zen(hub, "pull", url)
    assert hub.gets("storage")[-1].range, "the rest was asked for, if the file was still the same"
    assert store.path("style").read_bytes() == content


def test_the_stand_in_names_content_as_git_does() -> None:
    assert git_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
