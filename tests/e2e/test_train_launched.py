"""`zen train` under MLX's own launcher: two processes end in what one does, stop as one, go on, and fail as one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import launch_command, launched

from zen_mlx.codec.parts import decode_all
from zen_mlx.format.read import read
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.paths import run_dir, zen_home

ROWS = [{"prompt": f"say {i}", "completion": f"the number {i * i} and so on"[: 9 + 3 * (i % 5)]} for i in range(24)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def command(model: Path, data: Path, name: str, method: str, steps: int, *more: str) -> list[str]:
    bits = ("--bits-per-weight", "1.5") if method == "factor" else ()
    return [
        *("-m", "zen_mlx", "train", str(data), "--profile", name, "-m", str(model), "--valid", "none", "--no-report"),
        *("--method", method, *bits, "--steps", str(steps), "--batch-size", "4", "--learning-rate-scale", "2", *more),
    ]


def losses(log: Path) -> list[float]:
    return [event["loss"] for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "step"]


def home_files() -> list[str]:
    return sorted(path.name for path in zen_home().rglob("*") if path.is_file() and not path.name.endswith(".lock"))


@pytest.mark.parametrize("method", ["sign", "factor"])
def test_two_processes_end_where_one_does(tiny_model: Path, data: Path, method: str) -> None:
    manager = ZenPersonalizationManager(str(tiny_model))
    done = launched(command(tiny_model, data, "two", method, 3, "--json"))
    report = json.loads(done.stdout)
    assert report["profile"] == "two", done.stderr
    two = manager.store.load("two")
    bits: dict[str, Any] = {"bits_per_weight": 1.5} if method == "factor" else {}
    alone = ZenPersonalizationManager(str(tiny_model), config=_config())
    one = alone.create_profile("one", data, valid="none", method=method, steps=3, batch_size=4, records=False, **bits)
    assert report["file_bytes"] == pytest.approx(one.file_bytes, abs=256)
    np.testing.assert_allclose(losses(Path(report["log"])), one.losses, rtol=1e-5)
    reference = read(one.path)
    assert set(two.tensors) == set(reference.tensors)
    for name, tensor in reference.tensors.items():
        wanted = decode_all(tensor.parts, tensor.shape)
        error = decode_all(two.tensors[name].parts, tensor.shape) - wanted
        # A rounding decides which side of a step a number falls: few may, and all others are the same.
        assert np.square(error).sum() <= 1e-2 * np.square(wanted).sum(), name
    assert not run_dir(zen_home(), "two").exists()
    assert home_files() == ["digests.json", "one.bitdelta", "one.jsonl", "two.bitdelta", "two.jsonl"]


def _config() -> Any:
    from zen_mlx.config import BitDeltaConfig

    return BitDeltaConfig(learning_rate_scale=2.0)


def _wait_for_step(log: Path, step: int) -> None:
    end = time.monotonic() + 300
    while not (log.exists() and len(losses(log)) >= step):
        assert time.monotonic() < end, "no step was taken"
        time.sleep(0.05)


def _pid_of(rank: int, name: str) -> int:
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
            rank_of = dict(x.split(b"=", 1) for x in (entry / "environ").read_bytes().split(b"\0") if b"=" in x)
        except (OSError, ValueError):
            continue
        if b"zen_mlx" in line and name.encode() in line and rank_of.get(b"MLX_RANK") == str(rank).encode():
            return int(entry.name)
    raise AssertionError(f"rank {rank} does not run")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank's process in /proc")
def test_a_signal_to_one_stops_both_at_a_step_and_the_run_goes_on(tiny_model: Path, data: Path) -> None:
    steps = 400
    folder = run_dir(zen_home(), "stop")
    child = subprocess.Popen(
        launch_command(command(tiny_model, data, "stop", "sign", steps)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for_step(folder / "log.jsonl", 2)
        os.kill(_pid_of(1, "stop"), signal.SIGINT)
        _, said = child.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    states = sorted(path.name for path in folder.glob("state-*.safetensors"))
    taken = len(losses(folder / "log.jsonl"))
    assert states == [f"state-{taken:08d}.safetensors"], said
    assert said.count(f"stopped after step {taken} of {steps}") == 1
    assert "stop" not in ZenPersonalizationManager(str(tiny_model)).profiles()
    more = launched(command(tiny_model, data, "stop", "sign", steps + 1, "--resume", "--json"))
    assert json.loads(more.stdout)["error"]["type"] == "ResumeMismatchError", more.stderr


def test_a_run_that_one_process_began_is_ended_by_two(tiny_model: Path, data: Path) -> None:
    from zen_mlx.train.trainer import Interrupted, StepReport

    def stop(event: Any) -> None:
        if isinstance(event, StepReport) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    manager = ZenPersonalizationManager(str(tiny_model), config=_config())
    options: dict[str, Any] = {"valid": "none", "steps": 5, "batch_size": 4, "records": False}
    with pytest.raises(Interrupted):
        manager.create_profile("p", data, on_event=stop, **options)
    done = launched(command(tiny_model, data, "p", "sign", 5, "--resume", "--json"))
    report = json.loads(done.stdout)
    assert report.get("profile") == "p", done.stderr
    whole = manager.create_profile("whole", data, **options)
    np.testing.assert_allclose(losses(Path(report["log"])), whole.losses, rtol=1e-5)


def test_an_error_ends_both_and_is_said_once(tiny_model: Path, data: Path) -> None:
    done = launched(command(tiny_model, data, "p", "sign", 3, "--max-length", "8"))
    assert done.stderr.count("zen: error:") == 1, done.stderr
    assert "max_length" in done.stderr
    ZenPersonalizationManager(str(tiny_model), config=_config()).create_profile(
        "p", data, valid="none", steps=1, records=False
    )
    taken = launched(command(tiny_model, data, "p", "sign", 3, "--json"))
    assert json.loads(taken.stdout)["error"]["type"] == "ProfileExistsError", taken.stderr
