"""--model and --profile -> a manager whose base is on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import names
from . import _view

if TYPE_CHECKING:
    from ..config import BitDeltaConfig
    from ..manager import ZenPersonalizationManager


def choose(model: str | None, profile: str | None) -> str:
    """The base's name: the one asked for, else the profile's, else the embedded one."""
    from ..base import registry

    if model is not None:
        return model
    if profile is not None:
        from ..manager import base_of

        return base_of(names.zen_home(), profile)
    return registry.DEFAULT_MODEL


def open_manager(
    model: str | None, profile: str | None, quiet: bool, config: BitDeltaConfig | None = None
) -> ZenPersonalizationManager:
    """A manager for that base, fetched with a progress bar if need be, with the profile active."""
    from ..base import pull
    from ..manager import ZenPersonalizationManager

    name = choose(model, profile)
    with _view.progress(quiet) as report:
        pull.pull(name, report)
    manager = ZenPersonalizationManager(name, config=config)
    if profile is not None:
        manager.activate_profile(profile)
    return manager
