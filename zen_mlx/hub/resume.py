"""Resumed downloads: a file over the network, piece by piece; what arrived stays, and the next try asks for the rest only."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

from .. import fsio
from ..errors import DownloadError, InputError, UnsupportedFormat
from ..events import Progress, report
from ..format.spec import MAGIC

TRIES = 4
PIECE_BYTES = 1 << 18
_PAUSE_S = 0.2
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Broken(Exception):
    """The connection failed in a way that another try may get over.

    keep: False when the part cannot be gone on with. reached: False when there was no answer at all.
    """

    def __init__(self, reason: str, *, keep: bool = True, reached: bool = True) -> None:
        super().__init__(reason)
        self.keep = keep
        self.reached = reached


@dataclass(frozen=True)
class Response:
    """A body that begins at byte `start` of the file (0: the server sends all of it). total: bytes of the whole file."""

    start: int
    total: int | None
    pieces: Iterator[bytes]


Open = Callable[[int], AbstractContextManager[Response]]


def body_range(status: int, content_range: str | None, content_length: str | None) -> tuple[int, int | None]:
    """(start, total) of an answer; `Broken` when a partial answer does not say what it holds."""
    if status != 206:
        return 0, int(content_length) if content_length and content_length.isdigit() else None
    found = _RANGE.fullmatch(content_range or "")
    if found is None:
        raise Broken(f"an answer with Content-Range {content_range!r}", keep=False)
    return int(found[1]), None if found[2] == "*" else int(found[2])


def transfer(open_at: Open, part: Path, where: str, total: int | None = None, progress: Progress | None = None) -> None:
    """Bring `part` to the whole file, going on after the bytes it has; `open_at(n)` asks for the file from byte n on.

    Gives up after `TRIES` tries in a row that got no further. Raises `DownloadError` (the part stays),
    `UnsupportedFormat` as soon as the first bytes are not a profile's (the part goes), `StorageError`.
    """
    had = best = _size(part)
    left = TRIES
    while total is None or _size(part) != total:
        try:
            total = _one_try(open_at, part, where, total, progress)
            break
        except Broken as error:
            if not error.keep:
                part.unlink(missing_ok=True)
            best, left = (_size(part), TRIES) if _size(part) > best else (best, left - 1)
            if not left or (best == had and not error.reached):
                raise DownloadError(
                    "the download was interrupted",
                    path=where,
                    found=str(error),
                    hint="check the connection and run it again: it continues where it stopped",
                ) from error
            time.sleep(_PAUSE_S * 2 ** (TRIES - left))
    report(progress, where, _size(part), total)


def _one_try(open_at: Open, part: Path, where: str, total: int | None, progress: Progress | None) -> int | None:
    if total is not None and _size(part) > total:
        part.unlink()
    done = _size(part)
    with open_at(done) as answer:
        if total is not None and answer.total not in (None, total):
            raise Broken(f"{answer.total} bytes instead of {total}", keep=False)
        total = answer.total if total is None else total
        if answer.start > done:
            raise Broken(f"bytes from {answer.start} on instead of {done}", keep=False)
        if total is not None and total - answer.start > shutil.disk_usage(part.parent).free:
            raise DownloadError("the file is larger than the free disk space", path=where, found=f"{total} bytes")
        with fsio.storage_errors(part), open(part, "r+b" if part.exists() else "wb", buffering=0) as file:
            file.truncate(answer.start)
            done = file.seek(answer.start)
            checked = False
            for piece in answer.pieces:
                _write_all(file, piece)
                done += len(piece)
                if not checked and done >= len(MAGIC):
                    _check_start(part, where)
                    checked = True
                report(progress, where, done, total)
    if total is not None and done != total:
        raise Broken(f"{done} of {total} bytes", keep=done < total)
    return total


@contextlib.contextmanager
def own_part(folder: Path, key: str) -> Iterator[Path]:
    """The path of the part `key`, for this process alone; a second process gets a part of its own that is not kept."""
    fsio.make_dir(folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(fsio.lock(folder / f"{key}.lock", "another process is downloading this"))
        except InputError:
            part = folder / f"{key}.{secrets.token_hex(4)}.part"
            stack.callback(part.unlink, missing_ok=True)
        else:
            part = folder / f"{key}.part"
        yield part


def _write_all(file: RawIOBase, piece: bytes) -> None:
    """All of `piece`, where an unbuffered file may take less at a time."""
    view = memoryview(piece)
    while view:
        view = view[file.write(view) or 0 :]


def _check_start(part: Path, where: str) -> None:
    with part.open("rb") as file:
        head = file.read(len(MAGIC))
    if head != MAGIC:
        part.unlink()
        raise UnsupportedFormat(
            "not a .bitdelta file", path=where, field="magic", expected=str(MAGIC), found=str(head[: len(MAGIC)])
        )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
