"""Publish a file or folder whole or not at all.

    with publish(path) as temporary:      # write to `temporary`; on success it is synced and renamed to `path`
        ...

A reader of `path` sees the old bytes or the new ones, never a part, also across `kill -9` and power loss. An error or
Ctrl-C inside the block removes the temporary and leaves what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError, StorageError

Json = dict[str, Any]  # a JSON object

PRIVATE_DIR_MODE = 0o700
PRIVATE_FILE_MODE = 0o600


def make_dir(path: Path, mode: int = PRIVATE_DIR_MODE) -> Path:
    """Create `path` with its parents; new folders get `mode`."""
    with storage_errors(path):
        missing = []
        at = path
        while not at.exists():
            missing.append(at)
            at = at.parent
        for folder in reversed(missing):
            folder.mkdir(mode=mode, exist_ok=True)
    return path


@contextlib.contextmanager
def publish(path: str | os.PathLike[str], *, mode: int = 0o644, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; sync it and rename it over `path` when the block ends well.

    With `folder` the temporary is an existing empty folder that replaces the folder at `path`.
    Raises `StorageError` when the disk is full or refuses.
    """
    target = Path(path)
    make_dir(target.parent)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    with storage_errors(target):
        try:
            if folder:
                temporary.mkdir(mode=mode | 0o700)
            yield temporary
            if folder:
                for entry in (*temporary.rglob("*"), temporary):
                    _sync(entry)
            else:
                os.chmod(temporary, mode)
                _sync(temporary)
            _replace(temporary, target, folder)
            _sync(target.parent)
        except BaseException:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
    """Publish `data` at `path`."""
    with publish(path, mode=mode) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], value: object, *, mode: int = 0o644) -> None:
    """Publish `value` as indented JSON at `path`."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), mode=mode)


def read_json(path: str | os.PathLike[str], *, default: Any) -> Any:
    """The JSON value at `path`; `default` when there is no such file or it is damaged (for caches, never for data)."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return default


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file or folder, absent or not."""
    target = Path(path)
    with storage_errors(target):
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: str | os.PathLike[str], busy: str) -> Iterator[None]:
    """Hold an advisory lock on `path` while the block runs; `InputError(busy)` when another process holds it."""
    target = Path(path)
    make_dir(target.parent)
    with storage_errors(target), open(target, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy, path=target) from None
        yield


def _replace(temporary: Path, target: Path, folder: bool) -> None:
    if folder and target.exists():
        # A folder cannot be renamed over a full one: the old one steps aside first.
        aside = target.parent / f".{target.name}.{secrets.token_hex(4)}.old"
        os.rename(target, aside)
        try:
            os.rename(temporary, target)
        except BaseException:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(temporary, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or refusing disk in the block into `StorageError`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("the disk is full; nothing was changed", path=path, hint="free some space") from error
        if error.errno == errno.EFBIG:
            raise StorageError("a file of this size is not allowed here; nothing was changed", path=path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError("the file system refuses to write here", path=path) from error
        if error.errno == errno.ENOTDIR:
            raise StorageError("a file stands where a folder is needed", path=path) from error
        raise
