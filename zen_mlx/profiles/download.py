"""A profile from a path, a URL or a hub repository, as a `Profile` in memory."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .. import fsio
from ..errors import DownloadError, FormatError, InputError
from ..events import Progress
from ..format.read import read
from ..format.spec import Profile
from ..hub import client
from ..hub.address import HubSource, check_file, parse, shown
from ..hub.resume import PIECE_BYTES, Broken, Response, body_range, own_part, transfer
from ..paths import downloads_dir

TIMEOUT_S = 30.0


def download_profile(
    source: str, progress: Callable[[int, int | None], None] | None = None, *, file: str | None = None
) -> Profile:
    """Read the profile at `source`: `OWNER/NAME[@REVISION]` on the hub, an http(s) URL, or a local path.

    file: which profile of a hub repository, where it has several. progress(bytes so far, all bytes or None). A download
    that broke off or was killed goes on where it stopped. `DownloadError` when the network fails or what arrived is not
    what the hub has; `FormatError` when it is no profile; `ProfileNotFoundError` when the hub has no such thing.
    """
    bytes_of = None if progress is None else lambda where, done, total: progress(done, total)
    with local_copy(source, bytes_of, file) as (path, _):
        profile = read(path)
    if not isinstance(parse(source), Path):
        profile.path = None
    return profile


@contextlib.contextmanager
def local_copy(
    source: str | HubSource, progress: Progress | None = None, file: str | None = None
) -> Iterator[tuple[Path, client.HubFile | None]]:
    """Yield (path, what the hub said) of the file at `source` while the block runs; errors of its format name `source`."""
    place = parse(source) if isinstance(source, str) else source
    if file is not None:
        if not isinstance(place, HubSource):
            raise InputError("only a hub repository has files to choose from", field="file", found=file)
        place = replace(place, file=check_file(file))
    if isinstance(place, Path):
        yield place, None
        return
    with contextlib.ExitStack() as stack:
        if isinstance(place, HubSource):
            found = client.fetch(place, progress)
            path, name = found.path, str(found.source)
        else:
            found, name = None, shown(place)
            path = stack.enter_context(_from_url(place, progress))
        try:
            yield path, found
        except FormatError as error:
            if error.path == str(path):
                error.path = name
            raise


@contextlib.contextmanager
def _from_url(url: str, progress: Progress | None) -> Iterator[Path]:
    """A whole copy of what `url` has. A part is gone on with only if the server says that it is still the same file."""
    with own_part(downloads_dir(), hashlib.sha256(url.encode()).hexdigest()[:32]) as part:
        note = part.with_suffix(".json")
        if part.exists() and not _validator(note):
            part.unlink()
        with _discard_unless_broken(part, note):
            transfer(lambda start: _open(url, start, note), part, shown(url), None, progress)
            yield part
        fsio.remove(part)
        fsio.remove(note)


@contextlib.contextmanager
def _discard_unless_broken(part: Path, note: Path) -> Iterator[None]:
    """Only a part that the next try can go on with is kept."""
    try:
        yield
    except FormatError:
        fsio.remove(part)
        fsio.remove(note)
        raise


@contextlib.contextmanager
def _open(url: str, start: int, note: Path) -> Iterator[Response]:
    validator = _validator(note)
    try:
        request = urllib.request.Request(url)
        if start and validator:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", validator)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            at, total = body_range(
                response.status, response.headers.get("Content-Range"), response.headers.get("Content-Length")
            )
            if at == 0:
                fsio.write_json(note, {"validator": _validator_of(response.headers)})
            yield Response(at, total, iter(lambda: response.read(PIECE_BYTES), b""))
    except urllib.error.HTTPError as error:
        error.close()  # it is the open response too
        if error.code == 416 or error.code >= 500:
            raise Broken(f"HTTP {error.code}", keep=error.code != 416) from error
        raise DownloadError(
            "the download failed",
            path=shown(url),
            found=f"HTTP {error.code}: {error.reason}",
            hint=_way_out(error.code),
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reached = not isinstance(error, urllib.error.URLError)
        raise Broken(str(getattr(error, "reason", error)) or type(error).__name__, reached=reached) from error
    except ValueError as error:
        raise DownloadError("not a URL that can be fetched", path=shown(url), found=str(error)) from error


def _way_out(status: int) -> str:
    return {401: "the server requires a login", 403: "the server denies access", 429: "try again later"}.get(
        status, "check the address"
    )


def _validator(note: Path) -> str | None:
    document: object = fsio.read_json(note, default={})
    value = document.get("validator") if isinstance(document, dict) else None
    return value if isinstance(value, str) and value.isprintable() else None


def _validator_of(headers: Mapping[str, str]) -> str | None:
    """What If-Range may be sent with: a strong ETag, else the date of the last change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
