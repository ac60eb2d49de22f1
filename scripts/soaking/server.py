"""`zen serve` as a process: its port, log and memory."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .home import MODEL

_LINE = re.compile(r"\S+ (req_\w+) (?:GET|POST) \S+ (.+) \d+ms (\d+)")


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    @property
    def resident_bytes(self) -> int:
        """Memory of the process."""
        command = ["ps", "-o", "rss=", "-p", str(self.process.pid)]
        return 1024 * int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of each request that has ended, by its id."""
        return {found[1]: int(found[3]) for line in list(self.log) if (found := _LINE.fullmatch(line))}

    @property
    def complaints(self) -> list[str]:
        """Lines of the log that are errors; nonsense that is no HTTP is none."""
        wrong = re.compile(r"\S+ (error|warning|critical) (?!Invalid HTTP request)|Traceback")
        return [line for line in list(self.log) if wrong.match(line)]


@contextlib.contextmanager
def serving(home: Path, *options: str) -> Iterator[Server]:
    """A server on a free port; killed at the end if it still runs."""
    command = [sys.executable, "-m", "zen_mlx", "serve", "-m", MODEL, "--port", "0", *options]
    pipe = subprocess.PIPE
    environment = {**os.environ, "ZEN_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    server = Server(process, 0)
    reader = threading.Thread(target=_read, args=(server,), daemon=True)
    reader.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url.startswith("http://"):
            process.wait()
            reader.join()
            raise SystemExit("\n".join([*server.log, "zen serve did not start"]))
        server.port = int(url.rpartition(":")[2])
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(server: Server) -> None:
    assert server.process.stderr is not None
    for line in server.process.stderr:
        server.log.append(line.rstrip("\n"))
