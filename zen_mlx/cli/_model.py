"""--model and --profile -> a manager whose base is on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import paths
from . import _view

if TYPE_CHECKING:
    from ..config import BitDeltaConfig
    from ..events import Progress
    from ..manager import ZenPersonalizationManager


def choose(model: str | None, profile: str | None) -> str:
    """The base's name: the one asked for, else the profile's, else the embedded one."""
    from ..base import registry

    if model is not None:
        return model
    if profile is not None:
        from ..profiles.store import base_of

        return base_of(paths.zen_home(), profile)
    return registry.DEFAULT_MODEL


def open_manager(model: str | None, profile: str | None, quiet: bool) -> ZenPersonalizationManager:
    """A manager for that base, fetched with a progress bar if need be, with the profile active."""
    from ..base import pull
    from ..manager import ZenPersonalizationManager

    name = choose(model, profile)
    with _view.progress(quiet) as report:
        pull.pull(name, report)
    manager = ZenPersonalizationManager(name, on_note=_view.notice)
    if profile is not None:
        manager.activate_profile(profile)
    return manager


def lazy_manager(
    model: str | None, on_pull: Progress, config: BitDeltaConfig | None = None
) -> ZenPersonalizationManager:
    """A manager that fetches its base when it needs it: what is wrong with the input is said before."""
    from ..manager import ZenPersonalizationManager

    return ZenPersonalizationManager(choose(model, None), config=config, on_pull=on_pull, on_note=_view.notice)
