"""text -> the source of a profile: a file on this machine, a URL, or a file in a hub repository."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from ..errors import InputError
from ..paths import SUFFIX

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True)
class HubSource:
    """`file` (None: the only profile there) of `repo` at `revision` (None: main)."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{revision}" + (f"/{self.file}" if self.file else "")


def parse(source: str) -> HubSource | str | Path:
    """A `HubSource`, a URL as text, or a path.

    A URL of a page or file on the hub itself is a `HubSource`; a path that exists here wins over a repository of that
    name; `OWNER/NAME` and `OWNER/NAME@REVISION` are repositories unless they end in .bitdelta.
    """
    if source.startswith(("http://", "https://")):
        return _on_the_hub(source) or source
    path = Path(source).expanduser()
    repo = source.partition("@")[0]
    if not _exists(path) and _REPO.fullmatch(repo) and not source.endswith(SUFFIX):
        return hub_source(source)
    return path


def hub_source(text: str, file: str | None = None) -> HubSource:
    """`OWNER/NAME[@REVISION]`; `InputError` for anything else."""
    repo, at, revision = text.partition("@")
    check_repo(repo)
    if at:
        check_revision(revision)
    if file is not None:
        check_file(file)
    return HubSource(repo, revision or None, file)


def check_repo(repo: str) -> str:
    """`repo` when it is OWNER/NAME as the hub writes it."""
    bad = not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith((".git", "-", "."))
    if bad or repo.partition("/")[0].endswith(("-", ".")):
        raise InputError("not a hub repository", field="repo", expected="OWNER/NAME", found=repo)
    return repo


def check_revision(revision: str) -> str:
    """`revision` when it can be a branch, tag or commit."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith(("/", ".lock")):
        raise InputError("not a revision", field="revision", expected="a branch, tag or commit", found=revision)
    return revision


def check_file(file: str) -> str:
    """`file` when it is a profile's path inside a repository."""
    parts = file.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in file or not file.isprintable():
        raise InputError("not a path inside a repository", field="file", found=repr(file))
    if not file.endswith(SUFFIX):
        raise InputError("not a profile", field="file", expected=f"a name that ends in {SUFFIX}", found=file)
    return file


def shown(url: str) -> str:
    """`url` without what only its owner should see: user, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return url


def _on_the_hub(url: str) -> HubSource | None:
    """`ENDPOINT/OWNER/NAME[/(resolve|blob|tree)/REVISION[/FILE]]`."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    bare = url.partition("?")[0].partition("#")[0]
    if not bare.startswith(f"{endpoint}/"):
        return None
    owner, name, kind, revision, file = ([*bare.removeprefix(f"{endpoint}/").split("/", 4), "", "", "", ""])[:5]
    if not _REPO.fullmatch(f"{owner}/{name}") or kind not in ("", "resolve", "blob", "tree"):
        return None
    file = unquote(file) if kind != "tree" else ""
    return hub_source(f"{owner}/{name}" + (f"@{unquote(revision)}" if revision else ""), file or None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
