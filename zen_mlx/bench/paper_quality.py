"""Table 4.2 and the perplexity of Appendix B: loss of base, fine-tune and profile on held-out text."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..data.example import Example
from ..data.loss import mean_loss
from ..data.tokens import tokenize
from ..errors import InputError
from ..eval.report import evaluate
from ..events import Event, OnEvent, Progress, Stage
from ..fsio import Json
from ..manager import ZenPersonalizationManager
from ..paths import examples_dir

WINDOW = 1024
_WINDOWS, _QUICK_WINDOW = 8, 128
_QUICK_ROWS = 4
_CHARACTERS = 16
"""A token has fewer on average: what lies behind so many need not be tokenized."""
PAPER = (
    {"task": "style transfer", "base": 12.3, "fine_tune": 8.7, "profile": 9.1, "retention": 93.0},
    {"task": "technical writing", "base": None, "fine_tune": None, "profile": None, "retention": 94.0},
    {"task": "code generation", "base": None, "fine_tune": None, "profile": None, "retention": 92.0},
    {"task": "conversation", "base": None, "fine_tune": None, "profile": None, "retention": 96.0},
)
"""Table 4.2: perplexities, and percent of full fine-tuning."""
DOMAINS = {"cynic": "style transfer", "hacker": "technical writing", "code": "code generation", "talk": "conversation"}
"""Examples that carry a profile and held-out rows -> the paper's task of that domain."""


def measure_quality(
    manager: ZenPersonalizationManager,
    names: Sequence[str],
    rate: Json | None,
    quick: bool,
    report: Progress,
) -> Json:
    """ "paper": its rows. "rows": "task" (the paper's), "data", "profile", "file_bytes" and the perplexities "base",
    "fine_tune", "profile_perplexity" with "retention"; the fine-tune's only from `rate`'s one-bit row. A profile of
    `DOMAINS` is measured on that example's held-out rows, any other on hacker's."""
    rows = []
    for name in names:
        data = examples_dir() / f"{name if name in DOMAINS else 'hacker'}.valid.jsonl"
        found = evaluate(manager, data, [name], limit=_QUICK_ROWS if quick else None, on_event=stage_events(report))
        base, own = found["results"]
        rows.append(
            {
                "task": DOMAINS.get(name),
                "data": data.name,
                "tokens": found["data"]["tokens"],
                "profile": name,
                "file_bytes": manager.store.path(name).stat().st_size,
                "base": base["perplexity"],
                "fine_tune": None,
                "profile_perplexity": own["perplexity"],
                "retention": None,
            }
        )
    for each in rate["rows"] if rate else []:
        if each["codec"] == "sign, row x col":
            rows.append(
                {
                    "task": None,
                    "data": Path(rate["data"]["path"]).name if rate else "",
                    "tokens": rate["data"]["tokens"] if rate else 0,
                    "profile": each["codec"],
                    "file_bytes": each["file_bytes"],
                    "base": _perplexity(rate["base_loss"] if rate else 0.0),
                    "fine_tune": _perplexity(rate["reference_loss"] if rate else 0.0),
                    "profile_perplexity": _perplexity(each["loss"]),
                    "retention": each["retention"],
                }
            )
    return {"paper": list(PAPER), "rows": rows}


def measure_perplexity(
    manager: ZenPersonalizationManager, names: Sequence[str], file: Path | None, quick: bool, report: Progress
) -> Json:
    """Plain text in windows of `WINDOW` tokens, the first eight; every token but the first counts.

    "text", "sha256", "windows", "window", "tokens", and "rows" of "profile" (None: the base), "loss" and "perplexity".
    Without `file`: Python's own reference manual, as its help() carries it.
    """
    name, text = _text(file)
    window = _QUICK_WINDOW if quick else min(WINDOW, manager.base.context_length)
    count = 1 if quick else _WINDOWS
    start = text[: count * window * _CHARACTERS]
    windows = tokenize([Example(source=name, text=start)], manager.tokenizer, window)[:count]
    if not windows:
        raise InputError("a text needs at least two tokens", path=file, field="--text", found=f"{len(text)} characters")
    rows = []
    for profile in (None, *names):
        stage = f"perplexity of {profile or 'the base'}"
        with manager.using(profile):
            loss = mean_loss(manager.model, windows, partial(report, stage))
        rows.append({"profile": profile, "loss": loss.nats, "perplexity": _perplexity(loss.nats)})
    return {
        "text": name,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "window": window,
        "windows": len(windows),
        "tokens": sum(row.targets for row in windows),
        "rows": rows,
    }


def _text(file: Path | None) -> tuple[str, str]:
    """(what it is, the text)."""
    if file is not None:
        try:
            return file.name, file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("not a readable text", path=file, field="--text", found=str(error)) from error
    from pydoc_data.topics import topics

    ordered = "\n\n".join(topics[key].strip() for key in sorted(topics))
    return f"pydoc_data.topics of Python {platform.python_version()}: the language reference (PSF licence)", ordered


def stage_events(report: Progress, prefix: str = "") -> OnEvent:
    """An `OnEvent` that reports the stages, each as `prefix` and its name."""

    def on_event(event: Event) -> None:
        if isinstance(event, Stage):
            report(f"{prefix}{event.name}", event.done, event.total or None)

    return on_event


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 709.0))
