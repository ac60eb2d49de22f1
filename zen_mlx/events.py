"""Events: the numbers and sentences that long work reports to its caller, never text of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLACES_KEPT = 100  # of every reason; the counts go on


@dataclass(frozen=True)
class StepReport:
    """What one step did. loss: mean nats per supervised token of its batch; tokens: supervised ones.

    memory_bytes, peak_bytes: what MLX holds after the step, and at most held since the process began.
    """

    step: int
    steps: int
    loss: float
    rate: float
    quantized_share: float
    tokens: int
    seconds: float
    memory_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Evaluated:
    """Held-out loss after `step`, with the arrays as they would be stored. agreement: as in `data.loss.Loss`.

    counts: whether early stopping looks at it; best: whether it is the lowest of those so far.
    """

    step: int
    loss: float
    agreement: float
    tokens: int
    seconds: float
    counts: bool
    best: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written after `step`."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Noted:
    """A sentence that the user should read."""

    text: str


@dataclass(frozen=True)
class Stage:
    """Progress of a stage that is not a training step; a total of 0 is not known."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Prepared:
    """What a run will do. cut: rows longer than max_length; tokens: supervised ones in one pass over the rows.

    log: where its numbers are written while it lasts, `train.log`.
    """

    rows: int
    held_out: int
    cut: int
    steps: int
    tokens: int
    resumed_from: int
    log: Path


@dataclass
class Reason:
    """How often, and the first places."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """One more, at `place`."""
        self.count += 1
        if len(self.places) < PLACES_KEPT:
            self.places.append(place)


@dataclass(frozen=True)
class ImportReport:
    """The finished tally of one import, for `zen data preview`, `zen train` and whoever calls.

    files: by path, the examples of each format. kinds: by path, what a file was taken for, also one without examples.
    unused: fields of rows that hold something and are not used.
    """

    files: dict[str, dict[str, int]]
    examples: int
    conversations: int
    texts: int
    turns: int
    learned_turns: int
    characters: int
    refused: dict[str, Reason]
    skipped: dict[str, Reason]
    duplicates: Reason
    scrubbed: dict[str, int]
    notes: list[str]
    kinds: dict[str, str] = field(default_factory=dict)
    unused: dict[str, Reason] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON: counts and places."""

        def reasons(of: dict[str, Reason]) -> list[dict[str, Any]]:
            ordered = sorted(of.items(), key=lambda item: -item[1].count)
            return [{"reason": text, "count": each.count, "places": each.places} for text, each in ordered]

        return {
            "files": [
                {"path": path, "kind": self.kinds.get(path), "formats": self.files.get(path, {})}
                for path in dict.fromkeys((*self.kinds, *self.files))
            ],
            "examples": self.examples,
            "conversations": self.conversations,
            "texts": self.texts,
            "turns": self.turns,
            "learned_turns": self.learned_turns,
            "characters": self.characters,
            "refused": reasons(self.refused),
            "skipped": reasons(self.skipped),
            "duplicates": {"count": self.duplicates.count, "places": self.duplicates.places},
            "scrubbed": dict(sorted(self.scrubbed.items())),
            "notes": self.notes,
            "unused_fields": [
                {"field": name, "count": each.count, "places": each.places} for name, each in self.unused.items()
            ],
        }


Event = ImportReport | Prepared | Stage | StepReport | Evaluated | Saved | Noted
OnEvent = Callable[[Event], None]

Count = Callable[[int, int], None]
"""Takes how much of all is done of one thing that is being done."""
Progress = Callable[[str, int, int | None], None]
"""Takes what is being done, how much of it is, and of how much where that is known."""


def ignore(event: Event) -> None:
    """An `OnEvent` for a caller who wants to hear nothing."""


def stage(on_event: OnEvent, name: str) -> Count:
    """A `Count` that tells `on_event` how far the stage `name` is."""
    return lambda done, total: on_event(Stage(name, done, total))


def stages(on_event: OnEvent) -> Progress:
    """A `Progress` that tells `on_event` all of it as stages."""
    return lambda name, done, total: on_event(Stage(name, done, total or 0))


def report(progress: Progress | None, description: str, done: int, total: int | None) -> None:
    """Call `progress` if there is one."""
    if progress is not None:
        progress(description, done, total)
