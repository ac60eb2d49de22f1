"""The user's config file."""

from __future__ import annotations

import tomllib
from typing import Any

from ..errors import ConfigError
from ..paths import config_path


def user_config() -> dict[str, Any]:
    """`ZEN_HOME/config.toml` as a dict, {} when absent."""
    path = config_path()
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration file is not valid TOML", path=path, found=str(error)) from error
