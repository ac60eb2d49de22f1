"""Hub repositories through huggingface_hub: its cache, resume, HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import fsio
from ..errors import DownloadError, ModelNotFoundError
from ..events import Progress, report
from .address import HubSource
from .errors import hub_errors
from .settings import cache_dir, is_offline

# Weights, configuration and tokenizer only: never code.
PATTERNS = ["*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "tiktoken.model", "*.txt", "*.jinja"]


def cached(repos: Sequence[str], is_complete: Callable[[Path], bool]) -> Path | None:
    """The newest snapshot of the first of `repos` that is in the cache and complete; no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for repo in repos:
        try:
            folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=PATTERNS))
        except (LocalEntryNotFoundError, HFValidationError):
            continue
        if is_complete(folder):
            return folder
    return None


def download(name: str, repos: Sequence[str], progress: Progress | None = None) -> Path:
    """The snapshot of the first of `repos` that exists, downloaded; base model `name` is made of it."""
    from huggingface_hub import snapshot_download

    if is_offline():
        raise DownloadError(
            f"{name} is not on this machine and HF_HUB_OFFLINE forbids fetching it",
            field="model",
            expected=" or ".join(repos),
            hint="unset HF_HUB_OFFLINE and try again, or use the embedded base smollm2-135m",
        )
    for repo in repos:
        try:
            with hub_errors(HubSource(repo), missing=ModelNotFoundError), fsio.storage_errors(cache_dir()):
                return Path(snapshot_download(repo, allow_patterns=PATTERNS, tqdm_class=_bar(repo, progress)))
        except ModelNotFoundError as error:
            missing = error
    raise ModelNotFoundError(
        f"the hub has no {' nor '.join(repos)}, or it is private",
        field="model",
        found=name,
        hint="set HF_TOKEN if it is private; zen models list shows the names that are built in",
    ) from missing


def _bar(repo: str, progress: Progress | None) -> Any:
    """A tqdm class that draws nothing and forwards byte counts to `progress`."""
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            # One bar counts files, one the bytes on the wire, one the bytes on the disk: the last is what is left to do.
            self._counts = kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            self._description = f"downloading {repo}"
            self._done = int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs)
            self.total = kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            if self._counts:
                report(progress, self._description, self._done, int(self.total) if self.total else None)

    return Bar
