"""Runs of the command line on a base of two small layers, in arithmetic that is the same on every x86-64 Linux.

runs/                       made by `record_runs`
    few/, tuned/            the base, and a fine-tune of it
    train.jsonl, ...        data
    NAME.bitdelta           what the run NAME makes
    facts.json              what `--json` says of it; and what all of this was made with
    interrupted/NAME/       the folder that the run NAME leaves when Ctrl-C stops it half-way
    home/                   other files of that ZEN_HOME: chat history, a saved chat, digests, the log of a run

What decides the bytes besides zen_mlx, and what holds it:
- OpenBLAS, MLX's and NumPy's own: the CPU chooses its kernels and the threads cut its sums. `OPENBLAS_CORETYPE`, without
  which these bytes do differ from one CPU to the next, and one thread.
- NumPy's loops: the CPU chooses them. `NPY_DISABLE_CPU_FEATURES` leaves those of x86-64-v2, under its names of the features.
- glibc's sinf, powf and the like: the CPU chooses them, with FMA or without. `GLIBC_TUNABLES`.
- MLX's fused operations: the machine's compiler makes them. `MLX_DISABLE_COMPILE`. The rest of MLX's CPU build is plain
  x86-64 and chooses nothing at run time.
- The kernels of numba, which these runs do not reach (on a dense base the CPU merges): `NUMBA_CPU_NAME`.
- The versions of MLX, mlx-lm, NumPy, OpenBLAS and glibc: nothing holds them. `made_with` says which they were.
The bytes were the same on a CPU with AVX-512 and, emulated, on Haswell, EPYC Milan (AVX2) and Nehalem (neither).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import zen_mlx

RUNS = Path(__file__).parent / "runs"
_PINNED = Path(__file__).parent / "pinned_zen.py"
_PACKAGE = Path(zen_mlx.__file__).parent
_TOUCHED = 1_700_000_000_123_456_789
_KEPT = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "NUMBA_CACHE_DIR")
ARITHMETIC = {
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_CPU_NAME": "generic",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "MLX_DISABLE_COMPILE": "1",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4",
}
HOME = "<home>"
"""Stands in the kept files for the folder that was the home directory: they name bases and fine-tunes by absolute path."""
THEN, LATER = "2026-01-02T03:04:05Z", "2027-06-07T08:09:10Z"

_TRAIN = "train train.jsonl --valid valid.jsonl -m few --batch-size 4 --steps 8 --eval-every 2 --no-report"
COMMANDS = {
    "sign": f"{_TRAIN} --method sign --learning-rate-scale 20",
    "factor": f"{_TRAIN} --method factor --bits-per-weight 4 --learning-rate-scale 2 --patience 9",
    "compress": "compress tuned -m few --bits-per-weight 3 --distill train.jsonl --steps 6 --babble 1 --valid valid.jsonl",
}
STOPS = {"sign": 5, "factor": 5, "compress": 3}
"""Which of the steps Ctrl-C comes in."""


def made_with() -> dict[str, str]:
    """What the bytes hang on that `ARITHMETIC` cannot hold."""
    found = {"platform": f"{platform.system()} {platform.machine()}", "libc": " ".join(platform.libc_ver())}
    for name in ("mlx", "mlx-cpu", "mlx-lm", "numpy", "ngsolve-openblas"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def make_room(folder: Path) -> Path:
    """`folder` as a home directory: base and fine-tune where config.toml of its ZEN_HOME says, and the data."""
    room = folder.resolve()
    for name in ("few", "tuned"):
        shutil.copytree(RUNS / name, room / name)
        for path in (room / name).iterdir():
            os.utime(path, ns=(_TOUCHED, _TOUCHED))  # digests are kept by modification time
    for path in RUNS.glob("*.jsonl"):
        shutil.copyfile(path, room / path.name)
    (room / "zen").mkdir()
    shutil.copyfile(RUNS / "home" / "config.toml", room / "zen" / "config.toml")
    return room


def _environment(room: Path) -> dict[str, str]:
    """The same whatever the environment of this process says."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    places = {"HOME": room, "ZEN_HOME": room / "zen", "HF_HOME": room / "hf", "PYTHONPATH": _PACKAGE.parent}
    settings = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    return kept | {name: str(place) for name, place in places.items()} | settings | ARITHMETIC


def zen(room: Path, *args: str, at: str = THEN, stop: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in `room`, at the time `at`; Ctrl-C comes at the `stop`th step."""
    command = [sys.executable, str(_PINNED), at, str(stop), *args]
    environment = _environment(room)
    return subprocess.run(command, cwd=room, input=stdin, capture_output=True, text=True, timeout=300, env=environment)


class Terminal:
    """The command line on a pseudo-terminal."""

    def __init__(self, room: Path, *args: str) -> None:
        import pty  # not everywhere

        self._fd, child = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, str(_PINNED), THEN, "0", *args],
            cwd=room,
            stdin=child,
            stdout=child,
            stderr=child,
            env=_environment(room) | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        os.close(child)
        self._seen = ""

    def expect(self, text: str) -> None:
        """Read until `text` shows; the next call looks behind it."""
        while text not in self._seen:
            assert select.select([self._fd], [], [], 90)[0], f"no {text!r} in {self._seen!r}"
            piece = os.read(self._fd, 4096).decode("utf-8", "replace")
            self._seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", piece)
        self._seen = self._seen.partition(text)[2]

    def send(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def leave(self) -> None:
        """Press Ctrl-D until it is read: one that comes between two prompts is nobody's."""
        end = time.monotonic() + 90
        while self._process.poll() is None:
            assert time.monotonic() < end
            self.send("\x04")
            if select.select([self._fd], [], [], 0.5)[0]:
                with contextlib.suppress(OSError):  # nobody has the other side open
                    os.read(self._fd, 4096)
        assert self._process.returncode == 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *problem: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)


def run(room: Path, name: str, *more: str, **how: Any) -> tuple[bytes, dict[str, Any]]:
    """(the profile, the report) of the run `name`."""
    done = zen(room, *COMMANDS[name].split(), "--profile", name, "--json", *more, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return (room / "zen" / "profiles" / f"{name}.bitdelta").read_bytes(), json.loads(done.stdout)


def facts_of(report: dict[str, Any]) -> dict[str, Any]:
    """What of a report is neither a path nor a measurement of the machine."""
    machine = ("path", "log", "plot", "report", "seconds", "peak_memory_bytes", "layers")
    return {name: value for name, value in report.items() if name not in machine}
