"""A run as JSON lines, one event a line: numbers, digests and settings, never text of the data.

    {"event": "start" | "resume" | "step" | "evaluation" | "checkpoint" | "done", "time": seconds since 1970, ...}

Kept with the run while it lasts, beside its profile after it. A resumed run's log goes on after the last step that its
checkpoint holds.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from .. import fsio
from ..events import Evaluated, Event, Saved, StepReport
from ..fsio import Json

LOG = "log.jsonl"
_NAMES = {StepReport: "step", Evaluated: "evaluation", Saved: "checkpoint"}


class RunLog:
    """Appends to the log at `path`, 0600. A disk that refuses ends the log and not the run."""

    def __init__(self, path: Path, step: int = 0) -> None:
        """Entries of a log that is there are kept up to `step`; 0 begins a new one."""
        self.path = path
        kept = [entry for entry in read(path) if entry.get("step", 0) <= step] if step else []
        lines = "".join(_line(entry) for entry in kept)
        fsio.write_bytes(path, lines.encode(), mode=fsio.PRIVATE_FILE_MODE)

    def write(self, event: str, **values: object) -> None:
        """Append one entry."""
        data = _line({"event": event, "time": round(time.time(), 3), **values}).encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except OSError:
            return

    def take(self, event: Event) -> None:
        """Append `event` if it is one of the loop's."""
        if isinstance(event, StepReport | Evaluated | Saved):
            self.write(_NAMES[type(event)], **asdict(event))


def read(path: Path) -> list[Json]:
    """The entries of a log, a last line that was cut off left out; none where there is no log."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def _line(entry: Mapping[str, object]) -> str:
    """One line of JSON; a number that JSON has no word for becomes null."""
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in entry.items()}
    return json.dumps(finite, separators=(",", ":")) + "\n"
