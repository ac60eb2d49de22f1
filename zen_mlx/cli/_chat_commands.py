"""The / commands of `zen chat`. Confirmations go to stderr, what was asked for to stdout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.chat import ChatSession
from ..errors import InputError, ZenError
from ..manager import ZenPersonalizationManager
from . import _errors, _view

_SETTINGS = {"temp": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "seed": "seed"}
_NO_PROFILE = "none"
_HELP = (
    ("/profile NAME", f"switch to a profile; /profile {_NO_PROFILE} is the base alone"),
    ("/profiles", "list the profiles"),
    ("/system TEXT", "set the system message; without TEXT remove it"),
    ("/set temp 0.5", "change temp, top_p, max_tokens or seed; without a name show them"),
    ("/retry", "answer the last question again"),
    ("/clear", "forget the conversation"),
    ("/save FILE", "write the conversation as JSON"),
    ("/load FILE", "go on with a saved conversation"),
    ("/stats", "what the last answer took"),
    ("/help", "this list"),
    ("/quit", "leave, as Ctrl-D does"),
)


def is_command(line: str) -> bool:
    """Whether a line is a command: a slash and one word without another slash. A line that begins with a path is none."""
    word = line.split(maxsplit=1)[0] if line.strip() else ""
    return line.startswith("/") and "/" not in word[1:]


class Commands:
    """Runs the commands on one manager and one session."""

    def __init__(self, manager: ZenPersonalizationManager, session: ChatSession) -> None:
        self._manager = manager
        self._session = session
        self._table: dict[str, Callable[[str], None]] = {
            "/profile": self._profile,
            "/profiles": self._profiles,
            "/system": self._system,
            "/set": self._set,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/stats": self._stats,
            "/help": self._help,
        }

    def names(self) -> list[str]:
        """Every command."""
        return sorted([*self._table, "/retry", "/quit"])

    def choices(self, command: str) -> list[str]:
        """What can follow `command`."""
        if command == "/profile":
            return [*self._manager.profiles(), _NO_PROFILE]
        if command == "/set":
            return list(_SETTINGS)
        return []

    def label(self) -> str:
        """The active profile, else the model's name: what the prompt shows."""
        return self._manager.active or Path(self._manager.model_name).name

    def is_retry(self, line: str) -> bool:
        """Whether the line asks for another answer."""
        return line.strip() == "/retry"

    def run(self, line: str) -> bool:
        """Run one command line; False when it says to leave. An error is told and changes nothing."""
        command, _, argument = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return False
        try:
            action = self._table.get(command)
            if action is None:
                raise InputError(
                    f"there is no command {command}", hint="/help lists them; a space before the / makes it a question"
                )
            action(argument.strip())
        except ZenError as error:
            _errors.report(error, False)
        return True

    def _profile(self, name: str) -> None:
        if not name:
            _view.say(self._manager.active or _NO_PROFILE)
            return
        model = self._manager.deactivate() if name == _NO_PROFILE else self._manager.activate_profile(name)
        self._session.use(model)
        _view.notice("the base alone" if name == _NO_PROFILE else f"profile {name}")

    def _profiles(self, argument: str) -> None:
        headers = self._manager.store.headers()
        for name, header in headers:
            note = "damaged" if isinstance(header, ZenError) else "" if header.base.get("verified") else "unverified"
            mark = "*" if name == self._manager.active else " "
            _view.say(f"{mark} {name}" + (f" ({note})" if note else ""))
        if not headers:
            _view.notice("there are none yet; `zen train DATA --profile NAME` makes one")

    def _system(self, text: str) -> None:
        self._session.system = text or None
        _view.notice("system message set" if text else "no system message")

    def _set(self, argument: str) -> None:
        sampling = self._session.sampling
        if not argument:
            for name, field in _SETTINGS.items():
                value = getattr(sampling, field)
                _view.say(f"{name} {'random' if value is None else value}")
            return
        name, _, text = argument.replace("=", " ").partition(" ")
        if name not in _SETTINGS:
            raise InputError(f"there is no setting {name}", expected=", ".join(_SETTINGS))
        self._session.sampling = dataclasses.replace(sampling, **{_SETTINGS[name]: _number(name, text.strip())})
        _view.notice(f"{name} {text.strip()}")

    def _clear(self, argument: str) -> None:
        self._session.clear()
        _view.notice("the conversation is empty")

    def _save(self, argument: str) -> None:
        path = _file(argument)
        self._session.save(path)
        _view.notice(f"saved to {path}")

    def _load(self, argument: str) -> None:
        path = _file(argument)
        self._session.load(path)
        _view.notice(f"{len(self._session.messages)} turns from {path}")

    def _stats(self, argument: str) -> None:
        session, last = self._session, self._session.last
        _view.say(f"model           {self._manager.model_name}")
        _view.say(f"profile         {self._manager.active or _NO_PROFILE}")
        _view.say(f"turns           {len(session.messages)}")
        if last is not None:
            _view.say(f"prompt tokens   {last.prompt_tokens} ({last.cached_tokens} from the cache)")
            _view.say(f"answer tokens   {last.completion_tokens} ({last.finish_reason})")
            _view.say(f"prompt speed    {last.prompt_tps:.1f} tokens/s")
            _view.say(f"answer speed    {last.generation_tps:.1f} tokens/s")
            _view.say(f"seed            {last.seed}")

    def _help(self, argument: str) -> None:
        for usage, meaning in _HELP:
            _view.say(f"{usage:<16}{meaning}")
        _view.say(
            "\nEsc-Enter, or a line that ends in \\, goes on to the next line. Ctrl-C stops an answer, Ctrl-D leaves."
        )


def _file(argument: str) -> Path:
    if not argument:
        raise InputError("which file?", hint="/save talk.json")
    return Path(argument).expanduser()


def _number(name: str, text: str) -> Any:
    if name == "seed" and text in ("random", "none"):
        return None
    try:
        return int(text) if name in ("max_tokens", "seed") else float(text)
    except ValueError:
        raise InputError(f"{name} must be a number", field=name, found=text or "nothing") from None
