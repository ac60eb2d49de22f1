"""zen serve: what it says without its packages, the key file, the service, and that it puts the parts together."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from server_process import running

from zen_mlx.cli import serve as command
from zen_mlx.cli.main import main
from zen_mlx.config import ServeOptions

# A stand-in for the base and its backend; everything else is the command's own.
PUT_TOGETHER = """
import sys
from pathlib import Path
from canned_backend import CannedBackend
from mlx_lm.tokenizer_utils import load
from zen_mlx.cli import _model, main
class Backend(CannedBackend):
    def close(self, drain=True, timeout=None):
        pass
class Manager:
    model_name = "tiny"
    def backend(self, **options):
        sys.stderr.write(f"backend {sorted(options.items())}\\n")
        return Backend(load(Path(FOLDER)))
_model.open_manager = lambda model, profile, quiet: Manager()
main.run()
"""


def test_help_names_every_option_and_costs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    script = "import sys; from zen_mlx.cli.main import main; main(['serve', '--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("fastapi", "uvicorn", "starlette", "mlx.core", "prometheus_client", "llguidance"):
        assert f"'{name}'" not in done.stdout
    assert "--max-connections-per-peer" in done.stdout


def test_without_its_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    hidden = ("fastapi", "uvicorn", "starlette", "llguidance", "prometheus_client")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Hide(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return None if name in {hidden} else super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Hide\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "zen_mlx", "serve"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "fastapi, llguidance, prometheus_client, uvicorn" in done.stderr
    assert "install" in done.stderr
    assert "[server]'" in done.stderr


def test_a_new_key_is_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my keys"
    assert main(["serve", "--new-key", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}\n"
    key = file.read_text().splitlines()[-1]
    assert key not in out + err
    assert f"--api-key-file '{file}'" in err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert main(["serve", "--new-key", str(file)]) == 2


def test_another_address_needs_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "zen serve --new-key FILE" in capsys.readouterr().err


def test_print_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(subprocess, "run", None)
    assert main(["serve", "-m", "zen-nano", "--api-key-file", "keys", "--install", "--print"]) == 0
    out, err = capsys.readouterr()
    assert "zen_mlx" in out
    assert f"--api-key-file={Path.cwd() / 'keys'}" in out
    assert str(tmp_path) in err
    assert main(["serve", "--uninstall", "--print"]) == 0
    assert list(tmp_path.iterdir()) == []
    for wrong in (["--print"], ["--install", "--uninstall"]):
        assert main(["serve", *wrong]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="systemd's commands")
def test_what_the_service_manager_refuses_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = tmp_path / "bin" / "systemctl"
    manager.parent.mkdir()
    manager.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n[ "$2" != enable ] || {{ echo no bus >&2; exit 1; }}\n'
    )
    manager.chmod(0o755)
    monkeypatch.setenv("PATH", f"{manager.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    unit = tmp_path / "config" / "systemd" / "user" / "zen-serve.service"
    assert main(["serve", "--install"]) == 1
    err = capsys.readouterr().err
    assert "no bus" in err
    assert "left to do: systemctl --user enable --now zen-serve.service" in err
    assert unit.is_file()
    assert main(["serve", "--uninstall"]) == 0
    assert not unit.exists()
    assert (tmp_path / "calls").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now zen-serve.service",
        "--user disable --now zen-serve.service",
    ]
    assert main(["serve", "--uninstall"]) == 2


def test_it_puts_the_parts_together(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *sys.path]))
    words = ["serve", "--port", "0", "--max-streams", "3", "--max-queue", "5", "--max-tokens", "7", "--no-access-log"]
    script = PUT_TOGETHER.replace("FOLDER", repr(str(tiny_model)))
    with running(command=[sys.executable, "-c", script, *words]) as server:
        assert server.ask()[0] == 200
        assert server.ask(host="evil.example")[0] == 403
        backend = server.wait_for("backend ")
        assert "('max_streams'" not in backend
        for pair in (("streams", 3), ("queue", 5), ("max_profiles", 16), ("max_profiles_bytes", None)):
            assert str(pair) in backend
        server.wait_for("tiny with 2 profiles;")
        asked = {"model": "tiny@cynic", "messages": [{"role": "user", "content": "hi"}]}
        status, headers, body = server.ask("/v1/chat/completions", "POST", asked)
        assert status == 200
        assert json.loads(body)["usage"]["completion_tokens"] == 7
        assert headers["x-frame-options"] == "DENY"
        assert server.stop(signal.SIGTERM) == 0
        assert not [line for line in server.log if "/health" in line]


def test_an_option_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(command, "_serve", lambda options, model: seen.append(options))
    assert main(["serve"]) == 0
    assert seen == [ServeOptions()]
    assert main(["serve", "--allow-origin", "http://a", "--allow-origin", "http://b", "--idle-timeout", "7"]) == 0
    assert seen[1] == ServeOptions(allow_origin=("http://a", "http://b"), idle_timeout_s=7)
