"""huggingface_hub's settings: where the hub is, whether it may be asked, who asks, and how loud it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def endpoint() -> str:
    """HF_ENDPOINT, or the hub's own address."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cache_dir() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def has_token() -> bool:
    """Whether somebody is logged in."""
    from huggingface_hub import get_token

    return get_token() is not None


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within the block the hub is not asked, whatever HF_HUB_OFFLINE was at the import."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def quiet(bars: bool) -> None:
    """Only errors in its log, and no progress bars unless `bars`; what the environment says goes before it."""
    from huggingface_hub.utils import disable_progress_bars, logging

    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    if not bars and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        disable_progress_bars()
