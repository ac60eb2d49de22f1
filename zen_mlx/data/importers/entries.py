"""Files, folders and zip archives -> entries that can be opened, each with the name it is shown by.

A folder is read in order of its paths; links are followed once, so a loop ends. A zip is read in place, never unpacked
to disk; what it expands to is bounded.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from ...errors import DataError

MOST_FILES = 1_000_000
MOST_ZIP_BYTES = 16 * 2**30  # one archive, expanded
_FREE_ZIP_BYTES = 64 * 2**20  # an entry may expand to this whatever its ratio
_MOST_RATIO = 200  # text packs 3 to 20 times
MOST_WHOLE_BYTES = 256 * 2**20  # what is held in memory in one piece


@dataclass
class Budget:
    """Bytes an archive may still expand to."""

    left: int = MOST_ZIP_BYTES


@dataclass(frozen=True)
class Entry:
    """A file: `label` is how it is shown, `parts` its place below the folder or archive, `path` where it is on disk, if so."""

    label: str
    parts: tuple[str, ...]
    path: Path | None
    _open: Callable[[], IO[bytes]] = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.parts[-1]

    @property
    def suffix(self) -> str:
        """Of the name, in lower case, with its dot."""
        return PurePosixPath(self.name).suffix.lower()

    def open(self) -> IO[bytes]:
        """Its bytes from the start."""
        return self._open()

    def head(self, size: int = 4096) -> bytes:
        """Its first bytes."""
        with self.open() as handle:
            return handle.read(size)

    def open_text(self, errors: str = "surrogateescape") -> io.TextIOWrapper:
        """Its text: UTF-8, or UTF-16 where it says so; with `surrogateescape` a bad byte is seen on its own line."""
        utf16 = self.head(2) in (b"\xff\xfe", b"\xfe\xff")
        return io.TextIOWrapper(self.open(), encoding="utf-16" if utf16 else "utf-8-sig", errors=errors)

    def whole(self) -> bytes:
        """All its bytes; `DataError` for more than 256 MiB."""
        with self.open() as handle:
            content = handle.read(MOST_WHOLE_BYTES + 1)
        if len(content) > MOST_WHOLE_BYTES:
            raise DataError("too large to be read at once", path=self.label, expected=f"{MOST_WHOLE_BYTES} bytes")
        return content


def on_disk(path: Path, parts: tuple[str, ...] | None = None) -> Entry:
    """The file at `path`."""
    return Entry(str(path), parts or (path.name,), path, lambda: open(path, "rb"))


def regular(path: Path) -> bool:
    """True for a file that ends: no device, no pipe."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise DataError("the file cannot be read", path=path, found=error.strerror) from error


def folders_of(root: Path) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """(folder, its folders, its files) below `root`, hidden ones left out; a folder taken off the list is not entered."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    files_seen = 0
    while waiting:
        folder = waiting.pop()
        try:
            known = folder.stat()
            if (known.st_dev, known.st_ino) in seen:
                continue
            seen.add((known.st_dev, known.st_ino))
            entries = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError("the file cannot be read", path=folder, found=error.strerror) from error
        folders = sorted(entry for entry in entries if entry.is_dir())
        files = sorted(entry for entry in entries if entry.is_file())
        files_seen += len(files)
        if files_seen > MOST_FILES:
            raise DataError("too many files", path=root, expected=f"at most {MOST_FILES}")
        yield folder, folders, files
        waiting += folders


def zip_entries(path: Path) -> list[Entry]:
    """The files of the archive at `path`, in order of their names; `DataError` for one that is no archive or too large."""
    with reading(str(path)):
        archive = zipfile.ZipFile(path)
    infos = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    if len(infos) > MOST_FILES:
        raise DataError("too many files", path=path, expected=f"at most {MOST_FILES}")
    if sum(info.file_size for info in infos) > MOST_ZIP_BYTES:
        raise DataError("the archive expands to too much", path=path, expected=f"at most {MOST_ZIP_BYTES} bytes")
    budget = Budget()
    entries = []
    for info in infos:
        parts = tuple(part for part in PurePosixPath(info.filename).parts if part not in ("/", "..", "."))
        if parts and not any(part.startswith((".", "__MACOSX")) for part in parts):
            entries.append(Entry(f"{path}/{'/'.join(parts)}", parts, None, _opener(archive, info, budget, path)))
    return entries


def _opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget, path: Path) -> Callable[[], IO[bytes]]:
    return lambda: io.BufferedReader(_Bounded(archive.open(info), info, budget, path))


class _Bounded(io.RawIOBase):
    """A member of an archive that refuses to expand without bounds, whatever its header says."""

    def __init__(self, handle: IO[bytes], info: zipfile.ZipInfo, budget: Budget, path: Path) -> None:
        super().__init__()
        self._handle = handle
        self._left = max(_FREE_ZIP_BYTES, _MOST_RATIO * info.compress_size)
        self._budget = budget
        self._place = f"{path}/{info.filename}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # only these two come
        piece = self._handle.read(len(buffer))
        self._left -= len(piece)
        self._budget.left -= len(piece)
        if self._left < 0 or self._budget.left < 0:
            raise DataError("the archive expands to too much", path=self._place)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._handle.close()
        super().close()


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn what a damaged or unreadable file raises in the block into a `DataError` naming it."""
    try:
        yield
    except zipfile.BadZipFile as error:
        raise DataError("the zip archive is damaged or incomplete", path=label) from error
    except (zlib.error, EOFError) as error:
        raise DataError("the file is damaged in the archive", path=label) from error
    except NotImplementedError as error:
        raise DataError("the file's compression method is not supported", path=label) from error
    except RuntimeError as error:
        if "encrypted" not in str(error) and "password" not in str(error):
            raise
        raise DataError("the archive is encrypted", path=label, hint="unpack it first") from error
    except OSError as error:
        raise DataError("the file cannot be read", path=label, found=error.strerror or type(error).__name__) from error
