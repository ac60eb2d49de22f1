"""The profiles of one home folder: the disk is the truth, and every change happens completely or not at all.

Beside a profile lie its private records, which stay on this machine: the log of its run, its loss plot, its report.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from .. import fsio
from ..base import registry
from ..errors import InputError, ModelNotFoundError, ProfileExistsError, ProfileNotFoundError, ZenError
from ..format.read import read, read_header
from ..format.spec import Header, Profile
from ..format.write import write
from ..paths import SUFFIX, check_name, digest_cache_path, log_path, plot_path, profile_path, report_path


class ProfileStore:
    """Profiles of `home`, by name. Imports no mlx."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def names(self) -> list[str]:
        """All profile names, sorted."""
        folder = self.home / "profiles"
        if not folder.is_dir():
            return []
        return sorted(entry.name.removesuffix(SUFFIX) for entry in folder.glob(f"[!.]*{SUFFIX}"))

    def exists(self, name: str) -> bool:
        """True when a profile of that name is kept here."""
        return profile_path(self.home, name).is_file()

    def path(self, name: str) -> Path:
        """The file of profile `name`; `ProfileNotFoundError` says which there are."""
        path = profile_path(self.home, name)
        if not path.is_file():
            names = self.names()
            close = difflib.get_close_matches(name, names, n=1)
            if close:
                hint = f"did you mean {close[0]}?"
            elif names:
                hint = f"there are: {', '.join(names)}"
            else:
                hint = "there are none yet; `zen train DATA --profile NAME` makes one"
            raise ProfileNotFoundError(f"there is no profile {name!r}", field="profile", hint=hint)
        return path

    def headers(self) -> list[tuple[str, Header | ZenError]]:
        """(name, header) of every profile, or the error of one that cannot be read."""
        out: list[tuple[str, Header | ZenError]] = []
        for name in self.names():
            try:
                out.append((name, self.header(name)))
            except ZenError as error:
                out.append((name, error))
        return out

    def header(self, name: str) -> Header:
        """The header of `name`; its payload is not read."""
        return read_header(self.path(name))

    def load(self, name: str) -> Profile:
        """The whole profile `name`, every byte checked."""
        return read(self.path(name))

    def check_free(self, name: str, replace: bool = False) -> Path:
        """The path a new profile `name` will get; `ProfileExistsError` when it is taken and not to be replaced."""
        path = profile_path(self.home, name)
        if path.exists() and not replace:
            raise ProfileExistsError(
                f"there is already a profile {name!r}", field="profile", hint="use --replace, or another name"
            )
        return path

    def save(self, name: str, profile: Profile, replace: bool = False) -> Path:
        """Publish `profile` as `name`; what was there before stays until the new file is whole.

        Log, plot and report of a profile that was there before go with it.
        """
        path = self.check_free(name, replace)
        profile.info["name"] = name
        write(profile, path)
        remove_records(self.home, name)
        return path

    def remove(self, name: str) -> None:
        """Delete profile `name`, with its log, plot and report."""
        fsio.remove(self.path(name))
        remove_records(self.home, name)

    def rename(self, old: str, new: str, replace: bool = False) -> Path:
        """Give `old` the name `new`. The name inside the file follows, so the file is written anew before the old goes."""
        if check_name(new) == old:
            raise InputError("the profile already has this name", field="name", found=new)
        before = self.path(old)
        profile = self.load(old)
        path = self.check_free(new, replace)
        profile.info["name"] = new
        write(profile, path)
        move_records(self.home, old, new)
        if not before.samefile(path):  # where case does not count, the new name may be the same file
            self.remove(old)
        return path

    def export(self, name: str, file: str | os.PathLike[str], version: int = 2, replace: bool = False) -> list[str]:
        """Write profile `name` to `file` in format `version`; returns what that version cannot keep, in sentences."""
        profile = self.load(name)
        target = Path(file)
        if target.is_dir():
            target = target / f"{name}{SUFFIX}"
        if target.exists() and not replace:
            raise InputError("the file already exists", path=target, hint="use --replace, or another name")
        return write(profile, target, version)

    def import_file(
        self,
        file: str | os.PathLike[str],
        name: str | None = None,
        replace: bool = False,
        base: Mapping[str, object] | None = None,
    ) -> str:
        """Keep a copy of the profile in `file` under `name` (default: the name in the file, else the file's own).

        `base` becomes the header's `base`: for a file that does not say which weights it was made for.
        """
        profile = read(file)
        if base is not None:
            profile.base = dict(base)
        wanted = name or str(profile.info.get("name") or "") or Path(file).name.removesuffix(SUFFIX)
        self.save(wanted, profile, replace)
        return wanted


def base_of(home: Path, name: str) -> str:
    """The base that profile `name` was made for, as a name or folder that can be loaded here."""
    base = ProfileStore(home).header(name).base
    model = str(base.get("model") or registry.DEFAULT_MODEL)
    try:
        if registry.resolve(model):
            return model
    except ModelNotFoundError:
        for folder, digests in fsio.read_json(digest_cache_path(), default={}).items():
            if digests.get("weights") == base.get("weights") and Path(folder).is_dir():
                return str(folder)
        raise
    return model


def record_paths(home: Path, name: str) -> list[Path]:
    """Where the records of profile `name` are, whether or not there are any."""
    return [log_path(home, name), plot_path(home, name), report_path(home, name)]


def remove_records(home: Path, name: str) -> None:
    """Remove the records of `name`."""
    for path in record_paths(home, name):
        fsio.remove(path)


def move_records(home: Path, old: str, new: str) -> None:
    """Give the records of `old` to `new`, in place of those it has."""
    for before, after in zip(record_paths(home, old), record_paths(home, new), strict=True):
        if before.exists():
            os.replace(before, after)
        else:
            fsio.remove(after)
