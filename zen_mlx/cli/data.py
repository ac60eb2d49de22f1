"""zen data: a preview of the data that a run would train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import _view
from ._options import AsJson, AsText, Columns, KeepContacts, Me, Model

if TYPE_CHECKING:
    from ..data.example import Example
    from ..data.importers.tally import ImportOptions
    from ..events import ImportReport

app = typer.Typer(help="Look at training data.", no_args_is_help=True)

_SHOWN_CHARS = 160
_SHOWN_TURNS = 6
_SHOWN_PLACES = 3


@app.callback()
def _group() -> None:
    """A group even while it has one command."""


@app.command()
def preview(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Files, folders and archives.")],
    model: Model = None,
    me: Me = None,
    columns: Columns = None,
    keep_contacts: KeepContacts = False,
    as_text: AsText = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Examples to show.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show what would be trained on, and what was left out or scrubbed and why.

    Nothing is written. Secrets are counted by kind and never shown. With -m, rows that this model's chat template refuses
    are counted with the reason.

    Examples:

    \b
      zen data preview notes/ chats.jsonl
      zen data preview "WhatsApp Chat with Anna.txt" --me "Kim Doe"
      zen data preview chats.jsonl -m smollm2-135m
      zen data preview faq.csv --columns prompt=question,completion=answer --limit 10
    """
    from ..data.examples import data_digest
    from ..data.importers.tally import ImportOptions

    seen = look(data, ImportOptions.of(me, columns, keep_contacts, as_text=as_text), model)
    if as_json:
        shown = [_short(example) for example in seen.train[:limit]]
        _view.emit({**document(seen), "data_sha256": data_digest(seen.train), "preview": shown})
        return
    show(seen, limit)


class Seen(NamedTuple):
    """What a run would learn from and be measured on, and what was left out."""

    report: ImportReport
    train: list[Example]
    held: list[Example]


def look(data: Any, options: ImportOptions, model: str | None = None, valid: str | Path | None = None) -> Seen:
    """The data as a run takes it; with `model`, without the rows that its chat template refuses."""
    from ..data.examples import import_examples, split_held_out

    examples, report = import_examples(data, options)
    if valid is None:
        train, held = split_held_out(examples)
    else:
        train, held = examples, [] if valid == "none" else import_examples(valid, options)[0]
    return Seen(report, train, held) if model is None else _for_model(model, Seen(report, train, held))


def _for_model(model: str, seen: Seen) -> Seen:
    from ..base.load import load_tokenizer
    from ..base.pull import pull
    from ..config import TrainOptions
    from ..data.tokens import tokenize_usable, with_model

    tokenizer = load_tokenizer(pull(model))
    parts = [tokenize_usable(part, tokenizer, TrainOptions.max_length) for part in (seen.train, seen.held)]
    return Seen(with_model(seen.report, *parts), parts[0].examples, parts[1].examples)


def document(seen: Seen) -> dict[str, Any]:
    """The counts as JSON."""
    return {**seen.report.to_dict(), "train": len(seen.train), "held_out": len(seen.held)}


def show(seen: Seen, limit: int = 3) -> None:
    """Print the counts and the first `limit` examples."""
    _print(seen.report, len(seen.train), len(seen.held))
    for example in seen.train[:limit]:
        _view.say()
        _print_example(example)


def notices(report: ImportReport) -> list[str]:
    """What was left out and scrubbed, a line each; none when everything is used as it is."""
    lines = []
    if report.refused:
        lines.append(_count(sum(each.count for each in report.refused.values()), "row") + " cannot be used:")
        lines += _reasons(report.refused)
    if report.skipped:
        lines.append(f"{sum(each.count for each in report.skipped.values())} passed over:")
        lines += _reasons(report.skipped)
    if report.unused:
        lines.append("fields that hold something and are not used:")
        lines += _reasons(report.unused)
    if report.duplicates.count:
        lines.append(_count(report.duplicates.count, "exact duplicate") + " dropped")
    if report.scrubbed:
        counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.scrubbed.items()))
        lines.append(f"scrubbed: {counts}")
    return [*lines, *report.notes]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _reasons(reasons: dict[str, Any]) -> list[str]:
    lines = []
    for reason, each in sorted(reasons.items(), key=lambda item: -item[1].count):
        more = ", ..." if each.count > _SHOWN_PLACES else ""
        lines.append(_view.printable(f"  {each.count} x {reason}: {', '.join(each.places[:_SHOWN_PLACES])}{more}"))
    return lines


def _print(report: ImportReport, train: int, held: int) -> None:
    listing = _view.table("file", "taken for", "format", "examples", right=("examples",))
    for path in dict.fromkeys((*report.kinds, *report.files)):
        taken = report.kinds.get(path, "")
        for kind, count in report.files.get(path, {}).items() or [("", 0)]:
            listing.add_row(_view.cell(path), _view.cell(taken), _view.cell(kind), _view.cell(count))
    _view.show(listing)
    learned = f"{_count(report.turns, 'turn')}, {report.learned_turns} of them learned"
    parts = [f"{_count(report.conversations, 'conversation')} with {learned}", _count(report.texts, "text")]
    _view.say(f"{_count(report.examples, 'example')}: {'; '.join(parts)}; {_count(report.characters, 'character')}")
    _view.say(f"{train} to train on, {held or 'none'} held out")
    for line in notices(report):
        _view.say(line)


def _print_example(example: Example) -> None:
    short = _short(example)
    _view.say(_view.printable(short["source"]))
    if "text" in short:
        _view.say(f"  text: {_view.printable(short['text'])}")
    for turn in short.get("messages", []):
        _view.say(f"  {turn['role']}: {_view.printable(turn['content'])}")
    if short.get("more_turns"):
        _view.say(f"  ... {short['more_turns']} more turns")


def _short(example: Example) -> dict[str, Any]:
    """The example cut to what a screen holds."""
    if example.messages is None:
        return {"source": example.source, "text": _cut(example.text or "")}
    turns: list[dict[str, Any]] = []
    for message in example.chat_messages()[:_SHOWN_TURNS]:
        calls = [str(call["function"]["name"]) for call in message.get("tool_calls", [])]
        shown = _cut(message["content"]) or (f"calls {', '.join(calls)}" if calls else "")
        turns.append({"role": message["role"], "content": shown})
    return {
        "source": example.source,
        "messages": turns,
        "more_turns": max(0, len(example.messages) - _SHOWN_TURNS),
    }


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 1]}…"
