"""zen serve on the embedded base: an answer of the base over HTTP, a stop in the middle of one, a key that is asked for."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from server_process import running

ZEN_SERVE = [sys.executable, "-m", "zen_mlx", "serve", "--port", "0"]


def asked(**more: Any) -> dict[str, Any]:
    return {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Tell me a long story about a fox."}],
        "temperature": 0,
        **more,
    }


def test_an_answer_and_a_stop_in_the_middle_of_another(with_embedded_base: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("zen-" + "k" * 20)
    keys.chmod(0o600)
    bearer = {"authorization": "Bearer zen-" + "k" * 20}
    with running(command=[*ZEN_SERVE, "--api-key-file", str(keys), "--drain", "60"]) as server:
        assert server.ask("/v1/models")[0] == 401
        status, _, body = server.ask("/v1/chat/completions", "POST", asked(max_tokens=8), **bearer)
        alone = json.loads(body)
        assert status == 200
        assert alone["usage"]["completion_tokens"] == 8
        data = json.dumps(asked(max_tokens=24, stream=True)).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: {bearer['authorization']}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with server.connect(head.encode() + data) as stream:
            text = b""
            while text.count(b'"content"') < 3:
                text += stream.recv(4096)
            server.process.send_signal(signal.SIGTERM)
            while piece := stream.recv(4096):
                text += piece
        assert text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b'"finish_reason":"length"' in text
        assert server.process.wait(30) == 0
        words = "".join(
            choice["delta"].get("content") or ""
            for line in text.decode().splitlines()
            if line.startswith("data: {")
            for choice in json.loads(line[6:])["choices"]
        )
        assert words.startswith(alone["choices"][0]["message"]["content"])
        assert server.wait_for("POST /v1/chat/completions 200").endswith("ms 8")
        assert "a fox" not in "\n".join(server.log)
        assert "k" * 20 not in "\n".join(server.log)
