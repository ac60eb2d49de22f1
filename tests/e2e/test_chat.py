"""zen chat and zen generate as a user runs them: on a terminal (a pty) and through pipes, on the embedded base."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from zen_mlx.codec.parts import encode_sign
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.paths import history_path, zen_home
from zen_mlx.profiles.store import ProfileStore

ZEN = [sys.executable, "-m", "zen_mlx"]
NAME = "model.layers.0.mlp.down_proj.weight"
GENERATE_KEYS = {
    "text",
    "model",
    "profile",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "prompt_tps",
    "generation_tps",
    "seed",
}


@pytest.fixture
def profiles(with_embedded_base: Path) -> ProfileStore:
    """Two profiles: `odd`, which changes one layer of the embedded base, and `foreign`, made for other weights."""
    from zen_mlx.base.fingerprint import fingerprint

    digests = fingerprint(with_embedded_base)
    delta = 0.05 * np.random.default_rng(0).standard_normal((576, 1536), np.float32)
    store = ProfileStore(zen_home())
    for name, weights in (("odd", digests.weights), ("foreign", "0" * 64)):
        profile = Profile(
            info={"name": name, "method": "sign"},
            base={"model": "smollm2-135m", "weights": weights, "tokenizer": digests.tokenizer, "verified": True},
            metrics={},
            target_count=delta.size,
            model_count=delta.size,
            tensors={NAME: DeltaTensor(delta.shape, tuple(encode_sign(delta)))},
        )
        store.save(name, profile)
    return store


class Terminal:
    """A `zen` on a pseudo-terminal."""

    def __init__(self, *args: str) -> None:
        self._fd, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            [*ZEN, *args], stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
        )
        os.close(child)
        self._seen = ""

    def expect(self, pattern: str, seconds: float = 90) -> str:
        """Read until `pattern` shows, and return everything up to its end; later calls look behind it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < end, f"no {pattern!r} in {self._seen!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    piece = os.read(self._fd, 4096).decode("utf-8", "replace")
                except OSError:
                    piece = ""
                assert piece, f"ended before {pattern!r}: {self._seen!r}"
                self._seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", piece)
        before, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return before

    def send(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def interrupt(self) -> None:
        self._process.send_signal(2)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *problem: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        end = time.monotonic() + 60
        while self._process.poll() is None:
            assert time.monotonic() < end, f"still running: {self._seen!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    os.read(self._fd, 4096)
                except OSError:
                    time.sleep(0.05)
        return self._process.returncode


def test_a_conversation_on_a_terminal(profiles: ProfileStore) -> None:
    with Terminal("chat", "--temp", "0", "--max-tokens", "4") as terminal:
        terminal.expect(r"smollm2-135m>\s*$")
        terminal.send("/profiles\r")
        listed = terminal.expect(r"smollm2-135m>\s*$")
        assert "foreign" in listed
        assert "odd" in listed
        terminal.send("Say\x1b\rhi\\\rnow\r")  # Esc-Enter and a backslash go on to the next line
        assert re.search(r"[\d.]+ tokens/s  4 tokens", terminal.expect("tokens/s  4 tokens"))
        terminal.expect(r"smollm2-135m>\s*$")
        terminal.send("/profile o\t")
        terminal.expect("dd")  # only what completion added is drawn
        terminal.send("\r")
        terminal.expect("profile odd")
        terminal.expect(r"odd>\s*$")
        terminal.send("/profile absent\r")
        terminal.expect("there is no profile 'absent'")
        terminal.expect(r"odd>\s*$")
        terminal.send("/profile foreign\r")
        terminal.expect("not for these weights")
        terminal.expect(r"odd>\s*$")
        terminal.send("/set max_tokens 400\r")
        terminal.expect(r"odd>\s*$")
        terminal.send("Write a very long story about a ship.\r")
        terminal.expect(r"ship\.\s+\w+\s\w+\s")  # the answer has begun, and it is a long one
        terminal.interrupt()
        terminal.expect("stopped")
        terminal.expect(r"odd>\s*$")
        terminal.send("/stats\r")
        assert re.search(r"turns +4", terminal.expect("seed"))
        terminal.expect(r"odd>\s*$")
        terminal.send("\x03")
        terminal.expect("Ctrl-D leaves")
        terminal.expect(r"odd>\s*$")
        terminal.send("\x04")
        assert terminal.wait() == 0
    assert stat.S_IMODE(history_path().stat().st_mode) == 0o600
    assert "+Say\n+hi\n+now" in history_path().read_text()


def test_a_conversation_through_a_pipe(profiles: ProfileStore, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    lines = [
        "Say hi.",
        "/nonsense",
        "/profile absent",
        "/profile odd",
        "Say \\",
        "hi.",
        f"/save {file}",
        "/clear",
        f"/load {file}",
    ]
    done = subprocess.run(
        [*ZEN, "chat", "--temp", "0", "--max-tokens", "3"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    talk = json.loads(file.read_text())["messages"]
    assert [turn["role"] for turn in talk] == ["user", "assistant", "user", "assistant"]
    assert talk[2]["content"] == "Say \nhi."
    assert done.stdout == "".join(turn["content"] + "\n" for turn in talk if turn["role"] == "assistant")
    assert "\x1b" not in done.stdout + done.stderr
    assert "there is no command /nonsense" in done.stderr
    assert "there is no profile 'absent'" in done.stderr
    assert "4 turns" in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_prints_one_document_or_the_text(profiles: ProfileStore, capsys: pytest.CaptureFixture[str]) -> None:
    from zen_mlx.cli.main import main

    args = ["generate", "What is the capital of France?", "--temp", "0", "--max-tokens", "10"]
    assert main([*args, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert set(found) == GENERATE_KEYS
    assert found["text"] == "The capital of France is Paris."
    assert (found["model"], found["profile"], found["finish_reason"]) == ("smollm2-135m", None, "stop")
    assert main(args) == 0
    assert capsys.readouterr().out == "The capital of France is Paris.\n"
    assert main([*args, "-p", "odd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profile"] == "odd"
    assert main([*args, "-p", "foreign", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "BaseMismatchError"


def test_generate_reads_a_prompt_from_a_pipe(with_embedded_base: Path) -> None:
    command = [*ZEN, "generate", "-", "--max-tokens", "2", "--seed", "1", "--system", "Be brief."]
    runs = [subprocess.run(command, input=b"hi\n", capture_output=True, timeout=60) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout != b"\n"
    for bad in (b"", b"\xff\xfe"):
        assert subprocess.run(command, input=bad, capture_output=True, timeout=60).returncode == 2
