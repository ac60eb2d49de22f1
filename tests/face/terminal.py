"""`zen chat` on a pseudo-terminal, for the file that keeps what was typed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path


def history_marks(base: Path, file: Path) -> str:
    """The first characters of the lines of the history, after a few words in a chat."""
    prompt = f"{base.name}>".encode()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zen_mlx", "chat", "-m", str(base)]
    own = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=own, start_new_session=True)
    os.close(theirs)
    try:
        _until(ours, prompt)
        os.write(ours, b"/help\r")
        _until(ours, b"Ctrl-D leaves.", prompt)  # what is typed between two prompts is lost
        os.write(ours, b"\x04")
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return " | ".join(sorted({line[0] for line in file.read_text(encoding="utf-8").splitlines() if line}))


def _until(terminal: int, *texts: bytes) -> None:
    """Read until `texts` were shown, one after the other."""
    seen, end = b"", time.monotonic() + 30
    for text in texts:
        while text not in seen:
            assert time.monotonic() < end, f"no {text!r} in {seen!r}"
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 4096)
        seen = seen[seen.index(text) + len(text) :]
