"""A file is published whole or not at all: through errors, kill -9, a full disk and a second writer."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zen_mlx import fsio
from zen_mlx.errors import InputError, StorageError

CHILD = """
import sys, time
from pathlib import Path
from zen_mlx import fsio
def wait():
    print("ready", flush=True)
    time.sleep(60)
path = Path(sys.argv[1])
"""
MID_FILE = """
with fsio.publish(path) as temporary:
    temporary.write_bytes(b"half of the new")
    wait()
"""
MID_FOLDER = """
with fsio.publish(path, folder=True) as temporary:
    (temporary / "new").write_bytes(b"x")
    wait()
"""
LOCKED = """
with fsio.lock(path, "busy"):
    wait()
"""


@contextlib.contextmanager
def child(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", CHILD + code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block this process can write no file of more than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def shown(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_publish_replaces_and_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file"
    fsio.write_bytes(path, b"one", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    fsio.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert shown(path.parent) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException], folder: bool) -> None:
    path = tmp_path / "thing"
    with fsio.publish(path, folder=folder) as temporary:
        (temporary / "inner" if folder else temporary).write_bytes(b"old")

    def fail() -> None:
        with fsio.publish(path, folder=folder) as temporary:
            (temporary / "inner" if folder else temporary).write_bytes(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert (path / "inner" if folder else path).read_bytes() == b"old"
    assert shown(tmp_path) == ["thing"]


def test_kill_9_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with child(MID_FILE, path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == b"old"
    fsio.write_bytes(path, b"next")
    assert path.read_bytes() == b"next"


def test_kill_9_while_writing_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    with child(MID_FOLDER, path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert shown(path) == ["old"]
    with fsio.publish(path, folder=True) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "new").write_bytes(b"new")
    assert shown(path) == ["sub"]


def test_a_folder_that_cannot_take_its_place_brings_the_old_one_back(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        fsio._replace(tmp_path / "vanished", path, folder=True)
    assert shown(path) == ["old"]
    assert shown(tmp_path) == ["folder"]


def test_a_full_disk_is_a_storage_error_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fsio.write_bytes(path, b"old")
    with largest_file(1000), pytest.raises(StorageError) as caught:
        fsio.write_bytes(path, b"x" * 100_000)
    assert caught.value.path == str(path)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"
    assert shown(tmp_path) == ["file"]
    with largest_file(1000), pytest.raises(StorageError):
        fsio.write_json(path, {"long": "x" * 100_000})
    assert shown(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_no_space_left_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk is full") as caught, fsio.publish(tmp_path / "file"):
        Path("/dev/full").write_bytes(b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert shown(tmp_path) == []


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a file stands"):
        fsio.write_bytes(tmp_path / "file" / "sub" / "x", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="refuses"):
        fsio.write_bytes(tmp_path / "x", b"")


def test_the_lock_is_for_one_process_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with child(LOCKED, path) as process:
        with pytest.raises(InputError, match="somebody else") as caught, fsio.lock(path, "somebody else"):
            pass
        assert caught.value.path == str(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with fsio.lock(path, "busy"):
            pass
    with fsio.lock(path, "busy"), pytest.raises(InputError), fsio.lock(path, "busy"):
        pass


def test_json_and_remove(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    assert fsio.read_json(path, default=7) == 7
    fsio.write_json(path, {"b": "é", "a": 1.5})
    assert path.read_text(encoding="utf-8") == '{\n  "a": 1.5,\n  "b": "é"\n}\n'
    assert fsio.read_json(path, default=None) == {"a": 1.5, "b": "é"}
    for damaged in (b"{", b"\xff"):
        path.write_bytes(damaged)
        assert fsio.read_json(path, default={}) == {}
    with pytest.raises(ValueError, match="JSON"):
        fsio.write_json(path, float("nan"))
    fsio.remove(path)
    fsio.remove(path)
    (tmp_path / "full" / "of").mkdir(parents=True)
    os.symlink(tmp_path / "full", tmp_path / "link")
    fsio.remove(tmp_path / "link")
    assert shown(tmp_path) == ["full"]
    fsio.remove(tmp_path / "full")
    assert shown(tmp_path) == []
