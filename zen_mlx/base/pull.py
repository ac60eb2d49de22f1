"""name -> a folder that mlx-lm can load, downloaded if it is not on this machine.

An interrupted fetch leaves nothing that looks finished; hub downloads resume where they stopped.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelNotFoundError
from ..events import Progress
from ..hub import snapshot
from . import embedded, registry
from .validate import check_folder, is_complete


def pull(name: str, progress: Progress | None = None) -> Path:
    """The model folder of `name`, fetched when it is not on this machine.

    `progress(description, done_bytes, total_bytes | None)` is called while that goes on.
    Raises `ModelNotFoundError`, `ModelFormatError`, `StorageError`, or `DownloadError` with the way out.
    """
    source = registry.resolve(name)
    found = _local(source)
    if found is not None:
        return found
    if source.kind == "embedded":
        return embedded.pull(progress)
    if source.kind == "hub":
        folder = snapshot.download(source.name, source.repos, progress)
        check_folder(folder)
        return folder
    raise ModelNotFoundError("no such model folder", path=source.path, field="model", found=name)


def local_path(name: str) -> Path | None:
    """The model folder of `name` if it is complete on this machine; never touches the network."""
    return _local(registry.resolve(name))


def _local(source: registry.Source) -> Path | None:
    if source.kind == "embedded":
        return embedded.local_path()
    if source.kind == "hub":
        return snapshot.cached(source.repos, is_complete)
    return source.path if source.path is not None and source.path.is_dir() else None
