"""The server as a service of the user's own: a systemd user unit on Linux, a launchd agent on macOS.

The launchd agent is made after launchd.plist(5) and was never run on a Mac.
"""

from __future__ import annotations

import dataclasses
import os
import plistlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import ServeOptions, settings_of
from ..errors import InputError
from ..fsio import make_dir, remove, write_bytes

LABEL = "zen-mlx.serve"
UNIT = "zen-serve.service"
KEPT_VARIABLES = ("ZEN_HOME", "HF_HOME", "HF_HUB_OFFLINE", "ZEN_KERNELS")
_STOP_S = 15  # beside drain_s


@dataclass(frozen=True)
class Service:
    """path: of the file that describes it. start, stop: the commands that begin and end it."""

    path: Path
    content: bytes
    start: tuple[str, ...]
    stop: tuple[str, ...]


def service_of(options: ServeOptions, model: str | None = None, platform: str = sys.platform) -> Service:
    """The service that runs `zen serve` with these options and the variables of KEPT_VARIABLES that are set now."""
    command = [sys.executable, "-m", "zen_mlx", "serve", *arguments(options, model)]
    variables = {name: os.environ[name] for name in KEPT_VARIABLES if os.environ.get(name)}
    if platform == "darwin":
        path = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        domain = f"gui/{os.getuid()}"
        return Service(
            path,
            launchd_agent(command, variables, options.drain_s),
            (f"launchctl bootstrap {domain} {path}",),
            (f"launchctl bootout {domain}/{LABEL}",),
        )
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Service(
        config / "systemd" / "user" / UNIT,
        systemd_unit(command, variables, options.drain_s).encode(),
        ("systemctl --user daemon-reload", f"systemctl --user enable --now {UNIT}"),
        (f"systemctl --user disable --now {UNIT}",),
    )


def install(service: Service) -> None:
    """Write the service's file; `service.start` begins it."""
    make_dir(service.path.parent)
    write_bytes(service.path, service.content, mode=0o600)


def check_installed(service: Service) -> None:
    """InputError where the service's file is not there."""
    if not service.path.is_file():
        raise InputError("no service is installed", path=service.path, hint="zen serve --install makes one")


def uninstall(service: Service) -> None:
    """Remove the service's file."""
    check_installed(service)
    remove(service.path)


def arguments(options: ServeOptions, model: str | None) -> list[str]:
    """The command line that means `options`: those that are not the default, files as whole paths."""
    words = [] if model is None else [f"--model={model}"]
    for name, each in settings_of(ServeOptions).items():
        value = getattr(options, name)
        if value == each.default:
            continue
        spelled = each.metadata["setting"].option or f"--{name.replace('_', '-')}"
        yes, _, no = spelled.partition("/")
        if isinstance(value, bool):
            words.append(yes if value else no)
        else:
            words += [f"{yes}={item}" for item in (value if isinstance(value, tuple) else (value,))]
    return words


def systemd_unit(command: Sequence[str], variables: Mapping[str, str], drain_s: float) -> str:
    """A user unit. A bad setting (exit code 2) is not tried again; a crash is."""
    lines = [
        "[Unit]",
        "Description=zen serve: language models with personal profiles",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(_quoted(word) for word in command)}",
        *(f"Environment={_quoted(f'{name}={value}', dollar=False)}" for name, value in variables.items()),
        "Restart=on-failure",
        "RestartSec=5",
        "RestartPreventExitStatus=2",
        "KillMode=mixed",
        f"TimeoutStopSec={drain_s + _STOP_S:.0f}",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    return "\n".join(lines)


def _quoted(word: str, dollar: bool = True) -> str:
    """A word as systemd.service(5) reads it: in quotes, with C's escapes; % and, in a command, $ doubled."""
    if any(ord(char) < 0x20 for char in word):
        raise InputError("a service cannot have line breaks or control characters in its options", found=repr(word))
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text.replace("$", "$$") if dollar else text}"'


def launchd_agent(command: Sequence[str], variables: Mapping[str, str], drain_s: float) -> bytes:
    """A property list for ~/Library/LaunchAgents. launchd starts it again when it ends with another code than 0."""
    log = str(Path.home() / "Library" / "Logs" / f"{LABEL}.log")
    agent = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(variables),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": round(drain_s + _STOP_S),
        "ProcessType": "Interactive",
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
    }
    return plistlib.dumps(agent)


def resolved(options: ServeOptions) -> ServeOptions:
    """The options with whole paths: a service runs in another folder."""
    if options.api_key_file is None:
        return options
    return dataclasses.replace(options, api_key_file=str(Path(options.api_key_file).expanduser().absolute()))
