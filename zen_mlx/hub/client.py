"""A file of a hub repository -> a path in huggingface_hub's own cache, after a download that resumes and a digest check.

huggingface_hub throws the part of a download away when its process ends. So the file is fetched here, into the place in
the cache where huggingface_hub then finds it; were that place ever another, it would fetch the file itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import fsio
from ..errors import DownloadError, InputError, ProfileNotFoundError
from ..events import Progress
from ..fsio import Json
from ..paths import SUFFIX
from .address import HubSource, check_file, shown
from .errors import hub_errors, no_hub, patiently, transport_error
from .resume import PIECE_BYTES, Broken, Response, body_range, own_part, transfer
from .settings import cache_dir, is_offline

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What may become a part of a path in the cache."""


@dataclass(frozen=True)
class HubFile:
    """A file of the hub on this machine. source: with its file; commit: of the repository; cached: the hub was not asked."""

    source: HubSource
    path: Path
    commit: str
    cached: bool


def fetch(source: HubSource, progress: Progress | None = None) -> HubFile:
    """The profile `source` names, from the cache or fetched; checked against the digest the hub gives.

    HF_HUB_OFFLINE, or a hub that cannot be reached: what the cache has. Raises `ProfileNotFoundError` (repository,
    revision, file), `InputError` (several profiles, none chosen), `DownloadError`, `StorageError`.
    """
    if is_offline():
        found = _cached(source)
        if found is None:
            raise DownloadError(
                f"{source} is not on this machine and HF_HUB_OFFLINE forbids fetching it",
                field="repo",
                hint="unset HF_HUB_OFFLINE and try again",
            )
        return found
    try:
        return _fetch(source, progress)
    except DownloadError as error:
        found = _cached(source) if _unreachable(error) else None
        if found is None:
            raise
        return found


def _fetch(source: HubSource, progress: Progress | None) -> HubFile:
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    with hub_errors(source):
        source = replace(source, file=source.file or _only_profile(source))
        assert source.file is not None
        url = hf_hub_url(source.repo, source.file, revision=source.revision)
        facts = patiently(lambda: get_hf_file_metadata(url, token=get_token()))
        cache, etag = cache_dir(), facts.etag or ""
        if not _SAFE.fullmatch(etag) or not _SAFE.fullmatch(facts.commit_hash or ""):
            raise no_hub(DownloadError, f"ETag {etag!r}, X-Repo-Commit {facts.commit_hash!r}")
        if _SHA256.fullmatch(etag) or _GIT_SHA1.fullmatch(etag):
            folder = cache / repo_folder_name(repo_id=source.repo, repo_type="model") / "blobs"
            if not (folder / etag).exists():
                exact = hf_hub_url(source.repo, source.file, revision=facts.commit_hash)
                _bring(exact, folder, etag, facts.size, progress)
        with fsio.storage_errors(cache):
            path = patiently(
                lambda: hf_hub_download(source.repo, source.file or "", revision=source.revision, cache_dir=cache)
            )
    return HubFile(source, Path(path), _commit(Path(path), source), cached=False)


def _bring(url: str, folder: Path, etag: str, size: int | None, progress: Progress | None) -> None:
    """The content that `etag` names, at `folder/etag`, whole and checked."""
    with own_part(folder, f"{etag}.zen") as part:
        transfer(lambda start: _open(url, start), part, shown(url), size, progress)
        found = _digest(part, etag)
        if found != etag:
            part.unlink()
            raise DownloadError(
                "the downloaded file is not the one on the hub",
                path=shown(url),
                expected=etag,
                found=found,
                hint="try again",
            )
        with fsio.storage_errors(folder):
            os.replace(part, folder / etag)


@contextlib.contextmanager
def _open(url: str, start: int) -> Iterator[Response]:
    """GET from byte `start` on. The client follows redirects, and sends the token to the hub's own origin only."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = {**build_hf_headers(token=get_token()), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    call: Json = {"headers": headers, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
    call |= {"retry_on_exceptions": (), "retry_on_status_codes": ()}  # `transfer` tries again, and keeps count
    with contextlib.ExitStack() as stack:
        try:

            def ask() -> Any:
                response = stack.enter_context(http_stream_backoff("GET", url, **call))
                hf_raise_for_status(response)
                return response

            response = patiently(ask)
            at, total = body_range(
                response.status_code, response.headers.get("Content-Range"), response.headers.get("Content-Length")
            )
            yield Response(at, total, response.iter_bytes(PIECE_BYTES))
        except HfHubHTTPError as error:
            if error.response.status_code in (416, 500, 502, 503, 504):
                raise Broken(f"HTTP {error.response.status_code}", keep=error.response.status_code != 416) from error
            raise
        except transport_error() as error:
            raise Broken(str(error).strip() or type(error).__name__) from error


def _only_profile(source: HubSource) -> str:
    from huggingface_hub import HfApi

    info = patiently(lambda: HfApi().model_info(source.repo, revision=source.revision))
    return _choose(source, [sibling.rfilename for sibling in info.siblings or []])


def _choose(source: HubSource, files: list[str]) -> str:
    profiles = sorted(check_file(file) for file in files if file.endswith(SUFFIX))
    if not profiles:
        raise ProfileNotFoundError(
            f"{source} holds no profile", field="file", expected=f"a file that ends in {SUFFIX}", found=len(files)
        )
    if len(profiles) > 1:
        few = ", ".join(profiles[:10]) + (", ..." if len(profiles) > 10 else "")
        raise InputError(
            f"{source} holds {len(profiles)} profiles", field="file", expected=few, hint="choose with --file"
        )
    return profiles[0]


def _cached(source: HubSource) -> HubFile | None:
    """The file from the cache alone."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if source.file is None:
            folder = Path(snapshot_download(source.repo, revision=source.revision, local_files_only=True))
            files = [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{SUFFIX}")]
            if not files:
                return None
            source = replace(source, file=_choose(source, files))
        path = Path(hf_hub_download(source.repo, source.file or "", revision=source.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return HubFile(source, path, _commit(path, source), cached=True)


def _commit(path: Path, source: HubSource) -> str:
    """The commit in `.../snapshots/COMMIT/FILE`."""
    return path.parts[-1 - len((source.file or "").split("/"))]


def _digest(path: Path, etag: str) -> str:
    """The digest `etag` is one of: SHA-256 of the content (large files), else git's SHA-1 of the blob."""
    if _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _unreachable(error: DownloadError) -> bool:
    cause: Any = error.__cause__
    if hasattr(cause, "response"):
        return bool(cause.response.status_code >= 500)
    return isinstance(cause, (transport_error(), ConnectionError, TimeoutError, FileNotFoundError))
