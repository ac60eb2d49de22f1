"""What runs and chats leave under ZEN_HOME: the keys of their files."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zen_mlx import ZenPersonalizationManager

from . import terminal
from .command_line import run
from .shape import ROOT, shape

CONFIG = '[models]\nrepo = "org/name"\nrepos = ["org/one", "org/two"]\nfolder = "%s"\n'


def of_runs(tiny: Path, tuned: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the files of runs, the keywords of the manager's runs with their defaults)."""
    home, rows = scratch / "home", str(scratch / "rows.jsonl")
    manager = ZenPersonalizationManager(str(tiny))
    changed = {"checkpoint_s": 0.0, "grad_checkpoint": False}  # run.json does not have them: they change no result
    more = {**changed, "valid": rows, "eval_every": 1, "patience": 9}

    def train(name: str, **options: Any) -> Callable[[Callable[[Any], None]], Any]:
        return lambda tell: manager.create_profile(name, rows, on_event=tell, **options)

    plain = _stopped(home / "runs" / "plain", train("plain"), "run.json")
    full = _stopped(home / "runs" / "run", train("run", **more), "state-*")
    train("run", **more, resume=True)(lambda event: None)
    made = _stopped(
        home / "runs" / "made",
        lambda tell: manager.compress_profile("made", str(tuned), text=rows, on_event=tell),
        "run.json",
    )
    own = {name: value for name, value in plain["options"].items() if name != "config"}  # the manager gives that
    keywords = {
        "create_profile": {**own, **dict.fromkeys(changed, "not in run.json")},
        "compress_profile": made["options"],
    }
    events: dict[str, list[Any]] = {}
    for line in (home / "logs" / "run.jsonl").read_text().splitlines():
        entry = json.loads(line)
        events.setdefault(entry["event"], []).append(entry)
    found = {
        "runs/NAME/run.json of train": shape(plain, full),
        "runs/NAME/run.json of compress": shape(made),
        **{f"log.jsonl, event {name}": shape(*entries) for name, entries in events.items()},
        "digests.json": shape(json.loads((home / "digests.json").read_text()), data_keys={ROOT}),
    }
    return found, keywords


def of_chats(tiny: Path, scratch: Path) -> dict[str, Any]:
    """The files of chats, and the user's own config.toml with the kind of base that each form of an alias gives."""
    home, talk = scratch / "home", scratch / "talk.json"
    _said(tiny, "hi", f"/save {talk}", f"/load {talk}")
    (home / "config.toml").write_text(CONFIG % tiny)
    kinds = {row["name"]: row["kind"] for row in json.loads(run("models", "list", "--json")[1])}
    return {
        "saved chat": shape(json.loads(talk.read_text())),
        "history": {"first characters of lines": terminal.history_marks(tiny, home / "history")},
        "config.toml": {f"models.{name}": kinds[name] for name in ("repo", "repos", "folder")},
    }


def chat_commands(tiny: Path) -> list[str]:
    """What can be typed into a chat, as /help and /set list it."""
    commands = {word for word in _said(tiny, "/help") if word.startswith("/")}
    return sorted(commands | {f"/set {name}" for name in _said(tiny, "/set")})


def _stopped(folder: Path, start: Callable[[Callable[[Any], None]], Any], until: str) -> dict[str, Any]:
    """run.json of a run that is interrupted as soon as its folder has a file `until`."""

    def tell(event: Any) -> None:
        if any(folder.glob(until)):
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        start(tell)
        raise AssertionError(f"{folder} was never a run with {until}")
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return facts


def _said(tiny: Path, *lines: str) -> list[str]:
    """The first words of the lines that a chat answers to `lines`."""
    stdin = io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))
    code, text = run("chat", "-m", tiny, "--system", "be", "--max-tokens", 2, stdin=stdin)
    assert code == 0
    return [line.split()[0] for line in text.splitlines() if line.strip()]
