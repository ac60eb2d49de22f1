"""SIGKILL at any point of a run: what goes on from it ends in the same bytes. Real processes, real files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Runs `zen` with a fixed clock for the header's date, and kills itself before its nth change of a file under ZEN_HOME.
RUNNER = """
import os, signal, sys
home, at = os.environ["ZEN_HOME"], int(sys.argv[1])
changes = 0

def hook(event, args):
    global changes
    if event == "open":
        counts = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    else:
        counts = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
    within = isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(home) if args else False
    if counts and (within or (event in ("os.remove", "os.rmdir") and args[1] != -1)):
        changes += 1
        if changes == at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
from zen_mlx.recipes import train as recipe
from zen_mlx.cli.main import main
recipe.now = lambda: "2026-01-01T00:00:00Z"
code = main(sys.argv[2:])
print("changes", changes, file=sys.stderr)
sys.exit(code)
"""
NEVER = 0


def start(home: Path, at: int, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ZEN_HOME": str(home)}
    command = [sys.executable, "-c", RUNNER, str(at), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def zen(home: Path, at: int, *args: str) -> tuple[int, str]:
    child = start(home, at, *args)
    out, err = child.communicate(timeout=1200)
    return child.returncode, out + err


def profile(home: Path) -> Path:
    return home / "profiles" / "p.bitdelta"


def go_on(home: Path, *args: str) -> None:
    """What a person does after a crash: resume, or start again where nothing was begun."""
    code, said = zen(home, NEVER, *args, "--resume")
    if code == 2 and "there is no unfinished run" in said:
        if profile(home).exists():
            return
        code, said = zen(home, NEVER, *args)
    assert code == 0, said
    assert "Traceback" not in said


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    line = '{"prompt": "%s %d", "completion": "%d"}\n'
    for name, count in (("train", 5), ("valid", 3)):
        (tmp_path / f"{name}.jsonl").write_text("".join(line % (name, n, n * n) for n in range(count)))
    return [str(tmp_path / "train.jsonl"), "--valid", str(tmp_path / "valid.jsonl")]


def tiny_run(tiny_model: Path, rows: list[str]) -> list[str]:
    options = ["--steps", "4", "--batch-size", "2", "--checkpoint-every", "0", "--eval-every", "1", "--patience", "9"]
    return ["train", *rows, "--profile", "p", "-m", str(tiny_model), "--learning-rate-scale", "20", *options]


def whole_run(home: Path, args: list[str]) -> tuple[bytes, int]:
    """(bytes of the profile of a run that nothing disturbed, how often it changed a file)."""
    code, said = zen(home, NEVER, *args)
    assert code == 0, said
    assert not (home / "runs" / "p").exists()
    return profile(home).read_bytes(), int(said.rsplit("changes ", 1)[1])


def killed_at(home: Path, at: int, args: list[str], whole: bytes) -> None:
    code, said = zen(home, at, *args)
    assert code == -signal.SIGKILL, said
    go_on(home, *args)
    assert profile(home).read_bytes() == whole, f"killed before change {at}"
    left = sorted(path.name for path in (home / "runs").rglob("*") if path.is_file() and path.name != ".p.lock")
    assert not left or not (home / "runs" / "p" / "run.json").exists()
    kept = {path.relative_to(home).as_posix() for path in home.rglob("*.*") if path.parent.name in ("logs", "reports")}
    assert {"logs/p.jsonl", "logs/p.png", "reports/p.md"} == kept or not (home / "runs" / "p").exists()


def test_a_run_killed_at_some_changes_of_files(tiny_model: Path, rows: list[str], tmp_path: Path) -> None:
    args = tiny_run(tiny_model, rows)
    whole, changes = whole_run(tmp_path / "whole", args)
    assert changes > 40
    for share in (0.08, 0.4, 0.62, 0.97):
        killed_at(tmp_path / f"at-{share}", round(share * changes), args, whole)


@pytest.mark.slow
def test_a_run_killed_before_each_change_of_a_file(tiny_model: Path, rows: list[str], tmp_path: Path) -> None:
    args = tiny_run(tiny_model, rows)
    whole, changes = whole_run(tmp_path / "whole", args)
    for at in range(1, changes + 1):
        killed_at(tmp_path / f"at-{at}", at, args, whole)


@pytest.mark.slow
def test_a_run_killed_again_and_again(tiny_model: Path, rows: list[str], tmp_path: Path) -> None:
    args = tiny_run(tiny_model, rows)
    whole, changes = whole_run(tmp_path / "whole", args)
    home = tmp_path / "again"
    zen(home, changes // 3, *args)
    for at in (9, 12, 15, 20):
        code, said = zen(home, at, *args, "--resume")
        assert code in (0, -signal.SIGKILL), said
    if (home / "runs" / "p").exists():
        go_on(home, *args)
    assert profile(home).read_bytes() == whole


def test_the_embedded_base_killed_in_a_write_and_while_measuring(
    with_embedded_base: Path, rows: list[str], tmp_path: Path
) -> None:
    home = Path(os.environ["ZEN_HOME"])
    options = ["--method", "factor", "--bits-per-weight", "0.05", "--steps", "3", "--batch-size", "2"]
    args = ["train", *rows, "--profile", "p", *options, "--max-length", "64", "--checkpoint-every", "0", "--no-report"]
    child = start(home, NEVER, *args)
    folder = home / "runs" / "p"
    deadline = time.monotonic() + 600
    while not any(entry.name.startswith(".state-") for entry in folder.glob(".*")):  # in a write
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    child.kill()
    child.communicate()
    child = start(home, NEVER, *args, "--resume")
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("held-out loss of the profile"):
            break
    child.kill()
    child.communicate()
    assert not profile(home).exists()
    assert (folder / "state-00000003.safetensors").is_file()
    code, said = zen(home, NEVER, *args, "--resume")
    assert code == 0, said
    assert "going on after step 3" in said
    killed = profile(home).read_bytes()
    assert not folder.exists()
    code, said = zen(home, NEVER, *args, "--replace")
    assert code == 0, said
    assert profile(home).read_bytes() == killed
