"""Sample answers before and after a profile, as Markdown, for the one who trained it and nobody else.

The file is 0600 under ZEN_HOME/reports and is the only thing a run leaves that quotes data: prompts of held-out rows,
scrubbed whatever they were before, and what the models make of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import fsio
from ..data.example import Example
from ..data.importers.scrub import scrub_example
from ..engine.decoding import greedy_answers, has_template, prompt_of, render
from ..events import Count

PROMPTS = 3
TOKENS = 24  # enough to hear a voice
PROMPT_TOKENS = 256  # a longer prompt would cost more than it shows
_TEXT_CHARS = 80  # of a text, as a prompt


@dataclass(frozen=True)
class Prompt:
    """What is answered: `ids` for the model, `shown` for the reader."""

    ids: tuple[int, ...]
    shown: str


class BeforeAfter:
    """Answers of the base, then of the profile, then the report; nothing of it where no row can be a prompt."""

    def __init__(self, examples: Sequence[Example], tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._prompts = choose_prompts(examples, tokenizer)
        self._before: list[str] = []
        self._after: list[str] = []

    def before(self, model: Any, progress: Count) -> None:
        """Ask `model`, the base alone."""
        self._before = self._answers(model, progress)

    def after(self, model: Any, progress: Count) -> None:
        """Ask `model`, the profile on it."""
        self._after = self._answers(model, progress)

    def _answers(self, model: Any, progress: Count) -> list[str]:
        ids = [prompt.ids for prompt in self._prompts]
        return [text + " ..." * cut for text, cut in greedy_answers(model, self._tokenizer, ids, TOKENS, progress)]

    def write(self, path: Path, name: str, metrics: Mapping[str, Any]) -> Path | None:
        """Publish the report of profile `name` at `path`, 0600; None where there is nothing to report."""
        if not self._prompts:
            return None
        text = "\n".join(_report(name, metrics, zip(self._prompts, self._before, self._after, strict=True)))
        fsio.write_bytes(path, f"{text}\n".encode(), mode=fsio.PRIVATE_FILE_MODE)
        return path


def choose_prompts(examples: Sequence[Example], tokenizer: Any) -> list[Prompt]:
    """The first PROMPTS held-out rows that can be a short prompt: a conversation up to its last answer, a text's beginning."""
    found: list[Prompt] = []
    for example in examples:
        if len(found) == PROMPTS:
            break
        prompt = _prompt(scrub_example(example, Counter(), False), tokenizer)
        if prompt is not None and 0 < len(prompt.ids) <= PROMPT_TOKENS:
            found.append(prompt)
    return found


def _report(name: str, metrics: Mapping[str, Any], answered: Iterable[tuple[Prompt, str, str]]) -> list[str]:
    lines = [f"# {name}", "", "Stays on this machine: export and push never read it. Answers are greedy.", ""]
    rows = [
        ("loss, nats per token", "loss", 1.0, 3),
        ("perplexity", "perplexity", 1.0, 1),
        ("token agreement, %", "agreement", 100.0, 1),
    ]
    lines += ["| held-out rows | base | profile |", "| --- | --- | --- |"]
    for label, key, factor, digits in rows:
        values = [metrics.get(f"{which}_{key}") for which in ("base", "profile")]
        shown = " | ".join("-" if value is None else f"{factor * value:.{digits}f}" for value in values)
        lines.append(f"| {label} | {shown} |")
    for prompt, base, profile in answered:
        for head, text in (("## Prompt", prompt.shown), ("Base:", base), ("Profile:", profile)):
            lines += ["", head, "", *_quoted(text)]
    return lines


def _prompt(example: Example, tokenizer: Any) -> Prompt | None:
    if example.text is not None:
        ids = tokenizer.encode(example.text[:_TEXT_CHARS], add_special_tokens=False)
        return Prompt(tuple(int(token) for token in ids), example.text[:_TEXT_CHARS])
    messages = prompt_of(example)
    if not messages or not has_template(tokenizer) or example.tools or messages[-1]["role"] != "user":
        return None
    return Prompt(tuple(render(tokenizer, messages)), str(messages[-1]["content"]))


def _quoted(text: str) -> list[str]:
    """The lines of `text`, indented: nothing in them is markup."""
    shown = "".join(char if char.isprintable() or char == "\n" else " " for char in text.strip())
    return [f"    {line}" for line in shown.splitlines()] or ["    (nothing)"]
