"""The only place where a name becomes a path.

Everything zen_mlx keeps lives under one folder, `ZEN_HOME`:

    profiles/NAME.bitdelta        finished profiles
    bases/ALIAS/                  converted base models that did not come from the hub cache
    runs/NAME/                    checkpoints and log of an unfinished training run (0700)
    logs/NAME.jsonl, NAME.png     numbers of the run that made a profile, and the plot of its losses
    reports/NAME.md               a few answers before and after it (0600)
    downloads/                    the part of a profile's download that has arrived so far
    digests.json                  weight digests by file size and mtime
    history                       lines typed into `zen chat`
    config.toml                   the user's own names of base models, in [models]
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

from .errors import InputError, NameInvalidError

SUFFIX = ".bitdelta"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = {"base", "none", "con", "prn", "aux", "nul"}


def zen_home() -> Path:
    """`$ZEN_HOME`, else the platform's application directory."""
    return Path(os.environ.get("ZEN_HOME") or platformdirs.user_data_dir("zen_mlx", appauthor=False)).expanduser()


def check_name(name: str) -> str:
    """Return `name` if it is 1 to 64 of `A-Z a-z 0-9 . _ -`, begins with a letter or digit and is not reserved."""
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED or name.endswith((".", SUFFIX)):
        reserved = name.lower() in _RESERVED
        raise NameInvalidError(
            f"{name!r} {'is a reserved name' if reserved else 'cannot be a name'}",
            field="name",
            expected=f"none of {', '.join(sorted(_RESERVED))}"
            if reserved
            else f"1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit, not ending in . or {SUFFIX}",
            found=repr(name),
        )
    return name


def profile_path(home: Path, name: str) -> Path:
    """`home/profiles/NAME.bitdelta`."""
    return home / "profiles" / f"{check_name(name)}{SUFFIX}"


def run_dir(home: Path, name: str) -> Path:
    """`home/runs/NAME`: where an unfinished training run of profile `name` keeps its checkpoint."""
    return home / "runs" / check_name(name)


def log_path(home: Path, name: str) -> Path:
    """`home/logs/NAME.jsonl`."""
    return home / "logs" / f"{check_name(name)}.jsonl"


def plot_path(home: Path, name: str) -> Path:
    """`home/logs/NAME.png`."""
    return home / "logs" / f"{check_name(name)}.png"


def report_path(home: Path, name: str) -> Path:
    """`home/reports/NAME.md`."""
    return home / "reports" / f"{check_name(name)}.md"


def base_dir(name: str) -> Path:
    """`ZEN_HOME/bases/NAME`: a base model that zen_mlx converted itself."""
    return zen_home() / "bases" / check_name(name)


def downloads_dir() -> Path:
    """`ZEN_HOME/downloads`."""
    return zen_home() / "downloads"


def digest_cache_path() -> Path:
    """`ZEN_HOME/digests.json`."""
    return zen_home() / "digests.json"


def history_path() -> Path:
    """`ZEN_HOME/history`."""
    return zen_home() / "history"


def config_path() -> Path:
    """`ZEN_HOME/config.toml`."""
    return zen_home() / "config.toml"


def examples_dir() -> Path:
    """The data sets and the profile that come with zen_mlx: in the wheel, or in the repository beside the package."""
    package = Path(__file__).parent
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / "README.md").is_file():
            return folder
    raise InputError("this installation has no examples", path=package / "examples", hint="reinstall zen_mlx")
