"""A profile from a path or a URL, as a `Profile` in memory; nothing is kept on disk."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .. import fsio
from ..errors import DownloadError, FormatError
from ..format.read import read
from ..format.spec import Profile

TIMEOUT_S = 30.0
_PIECE_BYTES = 1 << 20


def download_profile(source: str, progress: Callable[[int, int | None], None] | None = None) -> Profile:
    """Read the profile at `source`: an http(s) URL, else a local path.

    progress(bytes so far, all bytes or None). `DownloadError` when the network fails or the file arrives short;
    `FormatError` when what arrived is no profile.
    """
    if not source.startswith(("http://", "https://")):
        return read(Path(source).expanduser())
    with tempfile.TemporaryDirectory(prefix="zen-") as folder:
        path = Path(folder) / "download.bitdelta"
        _fetch(source, path, progress)
        try:
            profile = read(path)
        except FormatError as error:
            error.path = source
            raise
    profile.path = None
    return profile


def _fetch(url: str, path: Path, progress: Callable[[int, int | None], None] | None) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            if total is not None and total > shutil.disk_usage(path.parent).free:
                raise DownloadError("the file is larger than the free disk space", path=url, found=f"{total} bytes")
            done = 0
            while piece := response.read(_PIECE_BYTES):
                with fsio.storage_errors(path):
                    file.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the open response too
        raise DownloadError(
            "the download failed", path=url, found=str(getattr(error, "reason", error)), hint="try again"
        ) from error
    if total is not None and done != total:
        raise DownloadError("the download broke off", path=url, expected=f"{total} bytes", found=done, hint="try again")
