"""The service files: read by systemd-analyze and plistlib, not by us."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zen_mlx.config import ServeOptions
from zen_mlx.errors import InputError
from zen_mlx.server import service

# launchd.plist(5)
LAUNCHD_KEYS = {
    "Label": str, "ProgramArguments": list, "EnvironmentVariables": dict, "RunAtLoad": bool, "KeepAlive": dict,
    "ThrottleInterval": int, "ExitTimeOut": int, "ProcessType": str, "StandardOutPath": str, "StandardErrorPath": str,
    "Umask": int,
}  # fmt: skip
OPTIONS = ServeOptions(
    port=0,
    allow_host=("a.lan", "b.lan"),
    api_key_file="/home/me/my $keys 100%.txt",
    drain_s=5,
    access_log=False,
    ollama=True,
    max_profiles_bytes=12,
)
WORDS = ["--model=zen \"nano\" \\ 'x'", "--port=0", "--api-key-file=/home/me/my $keys 100%.txt", "--allow-host=a.lan",
         "--allow-host=b.lan", "--max-profiles-bytes=12", "--drain=5", "--ollama", "--no-access-log"]  # fmt: skip
MODEL = "zen \"nano\" \\ 'x'"


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def test_the_command_line_means_the_same_options() -> None:
    from zen_mlx.cli import serve as command
    from zen_mlx.cli.main import main

    assert service.arguments(OPTIONS, MODEL) == WORDS
    assert service.arguments(ServeOptions(), None) == []
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_serve", lambda options, model: seen.append((options, model)))
        assert main(["serve", *WORDS]) == 0
    assert seen == [(OPTIONS, MODEL)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(at_home))
    unit = at_home / service.UNIT
    unit.write_bytes(service.service_of(OPTIONS, MODEL, platform="linux").content)
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Type=exec", "Type=nonsense").replace("KillMode", "KilMode"))
    assert "KilMode" in subprocess.run(command, capture_output=True, text=True).stderr


def test_systemd_reads_each_word_as_it_was(at_home: Path) -> None:
    lines = service.service_of(OPTIONS, MODEL, platform="linux").content.decode().splitlines()
    command = next(line for line in lines if line.startswith("ExecStart="))
    expected = [sys.executable, "-m", "zen_mlx", "serve", *WORDS]
    assert command.count('" "') == len(expected) - 1
    assert '--api-key-file=/home/me/my $$keys 100%%.txt"' in command
    assert '"--model=zen \\"nano\\" \\\\ \'x\'"' in command
    assert "TimeoutStopSec=20" in lines
    assert "RestartPreventExitStatus=2" in lines


def test_a_line_break_cannot_begin_another_setting(at_home: Path) -> None:
    with pytest.raises(InputError, match="line breaks"):
        service.service_of(ServeOptions(), "x\nExecStartPre=/bin/sh", platform="linux")


def test_launchd_gets_documented_keys_of_the_right_types(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEN_HOME", "/some where/zen")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    made = service.service_of(OPTIONS, MODEL, platform="darwin")
    assert made.path == at_home / "Library" / "LaunchAgents" / "zen-mlx.serve.plist"
    agent = plistlib.loads(made.content)
    assert {name: type(value) for name, value in agent.items()} == LAUNCHD_KEYS
    assert agent["Label"] == made.path.stem
    assert agent["ProgramArguments"] == [sys.executable, "-m", "zen_mlx", "serve", *WORDS]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["EnvironmentVariables"]["ZEN_HOME"] == "/some where/zen"
    assert b"hf_secret" not in made.content
    assert agent["ExitTimeOut"] == 20


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_installed_and_removed(at_home: Path, platform: str) -> None:
    made = service.service_of(ServeOptions(), None, platform)
    with pytest.raises(InputError, match="no service is installed"):
        service.uninstall(made)
    service.install(made)
    assert made.path.read_bytes() == made.content
    assert made.path.is_relative_to(at_home)
    service.uninstall(made)
    assert not made.path.exists()
