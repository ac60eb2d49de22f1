"""How processes end in which answers are being made: zen serve at SIGTERM, and a program that just ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served_home import Home, make_home, serving

TIMES = 2  # scripts/soak: many more
ASKED = {
    "model": "two",
    "messages": [{"role": "user", "content": "Define: patience"}],
    "max_tokens": 150,
    "stream": True,
    "seed": 1,
    "temperature": 1,
}
PROGRAM = """
from zen_mlx import ZenPersonalizationManager
manager = ZenPersonalizationManager({base!r}, home={home!r})
print(len(list(manager.stream("hello", profile="one", max_tokens=5))))
stream = iter(manager.stream("hello", profile="two", max_tokens=3000, temperature=1.0, seed=2))
next(stream)
print("ends")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("ends"))


def stopped_while_it_answers(home: Home) -> tuple[int, bytes]:
    """(exit code, end of the answer that was running) of a server that is told to stop."""
    body = json.dumps(ASKED).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with serving(home) as server, server.connect(request) as stream:
        text = b""
        while text.count(b'"content"') < 4:
            text += stream.recv(4096)
        server.process.send_signal(signal.SIGTERM)
        while piece := stream.recv(4096):
            text += piece
        return server.process.wait(30), text[-60:]


def test_a_server_that_is_stopped_ends_its_answer_and_is_0(home: Home) -> None:
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda _: stopped_while_it_answers(home), range(TIMES)))
    assert [code for code, _ in ends] == [0] * TIMES
    assert all(b"data: [DONE]\n\n\r\n0\r\n\r\n" in text for _, text in ends)


def test_a_program_that_just_ends_is_0(home: Home, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(base=str(home.base), home=str(home.folder)))

    def run(_: int) -> tuple[int, list[str], str]:
        done = subprocess.run(
            [sys.executable, program], env=home.environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout.split(), done.stderr

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, range(TIMES))) == [(0, ["5", "ends"], "")] * TIMES
