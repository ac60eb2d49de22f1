"""The reference that profiles are compared with: a fine-tuned model, a LoRA adapter or another profile."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn
from mlx.utils import tree_flatten

from ..adapter.attach import Resident, attach
from ..base.load import load_model
from ..base.loaded import base_info, check_base
from ..base.pull import pull
from ..data.tokens import TokenRow
from ..errors import MemoryLimitError, NameInvalidError
from ..events import Count
from ..format.read import read
from ..format.spec import Profile
from ..interop.import_profile import foreign_profile
from ..interop.parse.detect import is_adapter, is_foreign
from ..manager import ZenPersonalizationManager
from ..paths import zen_home
from .measure import Beside, Measured, Recorded, measure

DISK_BYTES = 2**33  # of logits on disk, at most


@dataclass(frozen=True)
class Reference:
    """path: as it was asked for. kind: model, adapter or profile. profile: its deltas, None for a model of its own."""

    path: str
    kind: str
    profile: Profile | None

    def load(self, base_name: str) -> nn.Module:
        """A fresh model that computes what the reference does."""
        if self.profile is None:
            return load_model(pull(self.path))
        return attach(load_model(pull(base_name)), Resident.from_profile(self.profile, consume=False))


def open_reference(manager: ZenPersonalizationManager, reference: str) -> Reference:
    """A model folder or repository, an adapter folder, a .bitdelta or foreign delta file, or a stored profile's name.

    A file or folder comes before a profile of that name, and a profile before a model. No model is loaded. Errors: those of
    reading a profile, `BaseMismatchError` for one of another base.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        if is_adapter(path) and not (path / "config.json").is_file():
            return Reference(reference, "adapter", foreign_profile(path, manager.model_name))
        return Reference(reference, "model", None)
    if path.is_file():
        if is_foreign(path):
            return Reference(reference, "profile", foreign_profile(path, manager.model_name))
        return _profile(manager, reference, read(path))
    if _stored(manager, reference):
        return _profile(manager, reference, manager.store.load(reference))
    return Reference(reference, "model", None)


def _stored(manager: ZenPersonalizationManager, name: str) -> bool:
    try:
        return manager.store.exists(name)
    except NameInvalidError:
        return False


def _profile(manager: ZenPersonalizationManager, name: str, profile: Profile) -> Reference:
    pull(manager.model_name)
    check_base(base_info(manager.model_name), profile.base, name)
    return Reference(name, "profile", profile)


def keep_logits(
    model: nn.Module, rows: list[TokenRow], base_bytes: int, progress: Count | None = None
) -> tuple[Recorded | Beside, Measured]:
    """(the reference's logits at every supervised token, what it measures itself).

    They go to disk while they take at most 8 GiB and half of what is free; else the model stays in memory beside the base.
    MemoryLimitError where neither can be.
    """
    tokens = sum(row.targets for row in rows)
    wanted = 4 * tokens * _vocabulary(model)
    home = next(folder for folder in (zen_home(), *zen_home().parents) if folder.is_dir())
    if wanted <= min(DISK_BYTES, shutil.disk_usage(home).free // 2):
        kept = Recorded(zen_home())
        try:
            return kept, measure(model, rows, progress=progress, keep=kept)
        except BaseException:
            kept.close()
            raise
    both = base_bytes + sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if both > 0.75 * machine:
        raise MemoryLimitError(
            "neither the reference's logits fit on the disk nor both models in memory",
            field="reference",
            expected=f"{wanted / 1e9:.1f} GB of logits, or {both / 1e9:.1f} GB of weights",
            found=f"{machine / 1e9:.1f} GB of memory",
            hint="--limit N takes only the first N rows",
        )
    return Beside(model, rows), measure(model, rows, progress=progress)


def _vocabulary(model: nn.Module) -> int:
    import mlx.core as mx

    return int(model(mx.array([[0]])).shape[-1])
