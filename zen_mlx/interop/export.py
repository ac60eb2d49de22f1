"""A profile -> the folder of another program: a merged checkpoint, or a LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import fsio
from ..base.build import build
from ..base.pull import pull
from ..errors import ConfigError, InputError
from ..events import Progress
from ..format.spec import Profile
from .export_checkpoint import write_merged
from .export_lora import FORMATS, write_adapter

FOLDERS = ("hf", *FORMATS)
VERSIONS = {"v2": 2, "v1": 1}
"""Formats that are files of our own."""
_OURS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Exported:
    """notes: what its user should know, a sentence each. error: ||D' - D|| / ||D|| of an approximation, else None."""

    notes: tuple[str, ...]
    error: float | None = None


def export_folder(
    profile: Profile,
    base_name: str,
    folder: Path,
    form: str,
    rank: int | None = None,
    replace: bool = False,
    on_pull: Progress | None = None,
) -> Exported:
    """Publish `folder` as `form`: `hf` (base + profile), `mlx-lm` or `peft` (an adapter; `rank`: by SVD where not exact).

    `replace` takes the place of a folder that is empty or a model's or an adapter's, never of another.
    """
    if form not in FOLDERS:
        raise ConfigError("unknown format", field="format", expected=", ".join((*VERSIONS, *FOLDERS)), found=form)
    if form == "hf" and rank is not None:
        raise ConfigError("a merged checkpoint has no rank", field="rank", expected="mlx-lm or peft", found=rank)
    target = folder.resolve()
    if target.exists():
        ours = target.is_dir() and (not any(target.iterdir()) or any((target / name).is_file() for name in _OURS))
        if not replace or not ours:
            hint = "use --replace, or another name" if ours else "use another name: this folder was not exported"
            raise InputError("the folder already exists", path=folder, hint=hint)
    base_folder = pull(base_name, on_pull)
    if base_folder.resolve() == target:
        raise InputError("this is the base itself", path=folder, hint="use another name")
    with fsio.publish(target, folder=True, mode=0o755) as temporary:
        if form == "hf":
            return Exported(tuple(write_merged(profile, base_folder, temporary)))
        found = write_adapter(profile, build(base_folder), temporary, form, rank)
    return Exported(found.lost, found.error if found.lost else None)
