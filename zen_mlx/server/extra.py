"""The extra `server`: whether it is installed, and how to get it where zen_mlx is installed."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import InputError

PACKAGES = ("fastapi", "llguidance", "prometheus_client", "uvicorn")


def require_extra() -> None:
    """InputError that says how to get the extra, unless every package of it is here."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            "zen serve needs packages that are not installed",
            expected="the extra 'server' of zen-mlx",
            found=f"no {', '.join(missing)}",
            hint=install_command(),
        )


def install_command(prefix: Path | None = None, origin: str | None = None) -> str:
    """The command that adds the extra to this installation.

    prefix: the environment, `sys.prefix`. origin: `direct_url.json` of the installed distribution, None where it came
    from a package index.
    """
    home = prefix or Path(sys.prefix)
    wanted = shlex.join(_requirement(_origin() if origin is None else origin))
    if (home / "uv-receipt.toml").is_file():
        return f"uv tool install --force {wanted}"
    if (home / "pipx_metadata.json").is_file():
        return f"pipx install --force {wanted}"
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m pip install {wanted}"


def _origin() -> str:
    try:
        return metadata.distribution("zen-mlx").read_text("direct_url.json") or ""
    except metadata.PackageNotFoundError:
        return ""


def _requirement(origin: str) -> list[str]:
    """Words for an installer: the release, the clone, or the repository that zen_mlx came from, with the extra."""
    try:
        facts = json.loads(origin or "{}")
    except ValueError:
        facts = {}
    url = str(facts.get("url", ""))
    if url.startswith("file://"):
        editable = ["-e"] if facts.get("dir_info", {}).get("editable") else []
        return [*editable, f"{unquote(urlsplit(url).path)}[server]"]
    vcs = facts.get("vcs_info", {}).get("vcs")
    return [f"zen-mlx[server] @ {vcs}+{url}" if vcs else "zen-mlx[server]"]
