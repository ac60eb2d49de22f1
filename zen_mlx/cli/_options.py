"""Options that several commands share, and what the shell completes them with. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import paths
from ..errors import ZenError


def complete_model(incomplete: str) -> list[str]:
    """Aliases and converted bases that begin with `incomplete`."""
    from ..base import registry

    try:
        known = list(registry.aliases())
    except ZenError:
        return []
    made = [entry.name for entry in _entries(paths.zen_home() / "bases") if not entry.name.startswith(".")]
    return [name for name in dict.fromkeys([*known, *made]) if name.startswith(incomplete)]


def complete_profile(incomplete: str) -> list[str]:
    """Profiles that begin with `incomplete`."""
    return [name for name in profile_names() if name.startswith(incomplete)]


def profile_names() -> list[str]:
    """Names of the stored profiles, sorted."""
    files = _entries(paths.zen_home() / "profiles")
    return sorted(file.name.removesuffix(paths.SUFFIX) for file in files if file.name.endswith(paths.SUFFIX))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Base model: an alias, a hub repository or a folder. Default: the profile's, else smollm2-135m.",
        autocompletion=complete_model,
        show_default=False,
    ),
]
OneProfile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME",
        help="Profile to apply.",
        autocompletion=complete_profile,
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite a profile of that name.")]
ProfileName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_profile, show_default=False)]
Me = Annotated[
    list[str] | None,
    typer.Option(
        "--me",
        metavar="NAME",
        help="Which sender of chats and mails is you, and so is learned; repeatable, for other names of yours.",
        show_default=False,
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="MAP",
        help="Columns of a table: prompt=question,completion=answer.",
        show_default=False,
    ),
]
KeepContacts = Annotated[
    bool, typer.Option("--keep-contacts", help="Leave e-mail addresses and phone numbers in the data.")
]
