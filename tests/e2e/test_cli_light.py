"""The installed program: light commands, help, pipes and completion, each as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ZEN = [sys.executable, "-m", "zen_mlx"]
LIGHT = (
    ["--help"],
    ["profile", "list"],
    ["profile", "list", "--json"],
    ["inspect", "absent.bitdelta"],
    ["models", "list"],
    ["data", "preview", "absent.jsonl"],
)


def _zen(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ZEN, *args], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("args", [*LIGHT[:4], LIGHT[5]], ids=" ".join)
def test_light_commands_import_no_model_code(args: list[str]) -> None:
    code = (
        "import sys; from zen_mlx.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'mlx', 'mlx.core', 'mlx_lm', 'transformers', 'huggingface_hub'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_takes_under_two_fifths_of_a_second_of_work() -> None:
    best = float("inf")
    for _ in range(3):
        before = os.times()
        _zen("--help")
        after = os.times()
        best = min(best, sum(after[2:4]) - sum(before[2:4]))
    assert best < 0.4


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "doctor",
        "chat",
        "generate",
        "train",
        "compress",
        "eval",
        "inspect",
        "bench",
        *(
            f"profile {name}"
            for name in ["list", "show", "rename", "remove", "verify", "diff", "merge", "export", "import"]
        ),
        *(f"models {name}" for name in ["list", "pull", "show", "quantize"]),
        "data preview",
    ],
)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from zen_mlx.cli.main import main

    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"zen {command.split()[0]}" in out


def test_no_arguments_is_help_and_a_group_alone_is_bad_usage() -> None:
    assert "Commands:" in _zen().stdout
    group = _zen("profile")
    assert group.returncode == 2
    assert group.stdout == ""
    assert "merge" in group.stderr


def test_version() -> None:
    assert _zen("--version").stdout.startswith("zen_mlx ")


def test_a_reader_that_leaves_is_no_error() -> None:
    child = subprocess.Popen([*ZEN, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    error = child.stderr.read()
    child.stderr.close()
    child.wait(60)
    assert b"Traceback" not in error
    assert b"Exception" not in error


def test_the_shell_completes_profiles_and_models() -> None:
    folder = Path(os.environ["ZEN_HOME"]) / "profiles"
    folder.mkdir(parents=True)
    (folder / "cynic.bitdelta").write_bytes(b"")
    for words, expected in (("zen generate -p cy", "cynic"), ("zen generate -m smol", "smollm2-135m")):
        typed = {"_ZEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
        done = _zen(env={**os.environ, **typed})
        assert done.stdout.split() == [expected], done.stderr


def test_zen_home_is_made_only_when_something_is_kept() -> None:
    assert _zen("profile", "list").returncode == 0
    assert not Path(os.environ["ZEN_HOME"]).exists()


def test_sigint_exits_130(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [*ZEN, "generate", "-", "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _wait_until_idle(child.pid)
    child.send_signal(2)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 130, error
    assert out == b'{"error": {"type": "Interrupted", "message": "interrupted"}}\n'
    assert b"Traceback" not in error


def _wait_until_idle(pid: int) -> None:
    """Until the process has used no CPU for a second: it waits for input. Three seconds where /proc is missing."""
    stat = Path(f"/proc/{pid}/stat")
    last = ""
    for _ in range(60):
        time.sleep(1 if stat.exists() else 3)
        now = " ".join(stat.read_text().rpartition(")")[2].split()[11:13]) if stat.exists() else last
        if now == last and now != "0 0":
            return
        last = now
