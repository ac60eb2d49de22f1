"""name -> the source of a base model: an alias, a hub repository `org/name` or a folder.

Users add or override aliases in `ZEN_HOME/config.toml`:

    [models]
    work = "my-org/my-model"
    home = "~/models/mine"
    both = ["my-org/first-choice", "my-org/fallback"]
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Literal

from ..config import user_config
from ..errors import ConfigError, ModelNotFoundError, NameInvalidError
from ..paths import base_dir, config_path

DEFAULT_MODEL = "smollm2-135m"
EMBEDDED = "smollm2-135m"
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the base `name` comes from.

    kind: "embedded": converted from a PyPI wheel; "hub": `repos` are tried in order; "folder": `path` is read.
    """

    name: str
    kind: Literal["embedded", "hub", "folder"]
    repos: tuple[str, ...] = ()
    path: Path | None = None
    summary: str = ""


_TABLE = (
    Source(EMBEDDED, "embedded", summary="SmolLM2 135M Instruct, from PyPI; runs anywhere (default)"),
    Source("zen-nano", "hub", ("zenlm/zen-nano-0.6b",), summary="Zen Nano 0.6B"),
    Source(
        "zen-nano-4b",
        "hub",
        ("zenlm/zen-nano-4b-instruct", "zenlm/zen-eco-4b-instruct"),
        summary="Zen Nano 4B Instruct",
    ),
    Source("zen-next", "hub", ("zenlm/zen-next",), summary="Zen Next"),
    Source("zen-omni", "hub", ("zenlm/zen-omni-30b-instruct",), summary="Zen Omni 30B Instruct, its text part"),
)


def aliases() -> dict[str, Source]:
    """Every alias, the user's own included, in the order they are listed to a user."""
    known = {source.name: source for source in _TABLE}
    table = user_config().get("models", {})
    if not isinstance(table, dict):
        raise ConfigError("[models] must be a table", path=config_path(), field="models", found=type(table).__name__)
    for name, value in table.items():
        known[name] = _from_config(name, value)
    return known


def resolve(name: str) -> Source:
    """The source of `name`; an alias wins over a converted base, that over a folder, that over a repository id.

    Raises `ModelNotFoundError` for anything else, with the aliases and the closest of them.
    """
    known = aliases()
    if name in known:
        return known[name]
    converted = _converted(name)
    if converted is not None:
        return converted
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        folder = folder.absolute()
        return Source(str(folder), "folder", path=folder, summary="a folder on this machine")
    if name.startswith(("/", ".", "~")):
        raise ModelNotFoundError("no such model folder", path=folder, field="model", found=name)
    if _REPO.fullmatch(name):
        return Source(name, "hub", (name,), summary="a hub repository")
    close = difflib.get_close_matches(name, known, n=1)
    raise ModelNotFoundError(
        f"no base model is called {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        field="model",
        expected=f"one of {', '.join(known)}, a hub repository org/name or a folder",
        found=name,
    )


def made_here() -> list[Source]:
    """The bases zen_mlx made itself that no alias names, sorted: quantized copies under `ZEN_HOME/bases`."""
    folder = base_dir(EMBEDDED).parent
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    sources = (_converted(name) for name in found if name not in aliases())
    return [source for source in sources if source is not None]


def _converted(name: str) -> Source | None:
    """A base that zen_mlx made itself (`zen models quantize`), None when there is none of that name."""
    try:
        folder = base_dir(name)
    except NameInvalidError:
        return None
    if not (folder / "config.json").is_file():
        return None
    return Source(name, "folder", path=folder, summary="made on this machine")


def _from_config(name: str, value: object) -> Source:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(item, str) for item in values):
        raise ConfigError(
            "an alias is a repository id, a folder or a list of repository ids",
            path=config_path(),
            field=f"models.{name}",
            found=repr(value),
        )
    summary = "from config.toml"
    if all(_REPO.fullmatch(item) for item in values):
        return Source(name, "hub", tuple(values), summary=summary)
    if len(values) == 1 and values[0].startswith(("/", "~")):
        return Source(name, "folder", path=Path(values[0]).expanduser(), summary=summary)
    raise ConfigError(
        "neither a repository id org/name nor an absolute folder",
        path=config_path(),
        field=f"models.{name}",
        found=repr(value),
    )
