"""Two real processes under MLX's own launcher, on loopback and free ports."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

LAUNCHER = Path(sys.executable).with_name("mlx.launch")


def launch_command(command: list[str], ranks: int = 2) -> list[str]:
    """`command`, arguments of this interpreter, as its launcher starts it `ranks` times."""
    port = str(_free_ports(ranks))
    return [str(LAUNCHER), "-n", str(ranks), "--backend", "ring", "-p", port, sys.executable, *command]


def launched(command: list[str], ranks: int = 2, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run it to its end. stdin is a file that never ends a read early: the launcher hands it on to every rank."""
    return subprocess.run(
        launch_command(command, ranks),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONWARNINGS": ""},
        check=False,
    )


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for _ in range(100):
        first = random.randrange(20000, 32000)
        try:
            for port in range(first, first + count):
                with closing(socket.socket()) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports")
