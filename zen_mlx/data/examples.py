"""The one door for data: files, rows and strings -> conversations and texts, each with its source.

Knows nothing about tokens. `importers` has the formats. A row is one of

    {"messages": [{"role": "system"|"user"|"assistant"|"tool", "content": str}, ...]}   at least one assistant turn
    {"prompt": str, "completion": str}                                                   one user and one assistant turn
    {"text": str}, a plain string, or a plain text file (.txt, .md)                      no template
    {"conversations": [{"from", "value"}, ...]}                                          ShareGPT
    {"instruction", "input", "output"}                                                   Alpaca, and Dolly's names
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..events import ImportReport
from .example import Example
from .importers.files import SUFFIXES, read_all
from .importers.rows import parse_row
from .importers.scrub import scrub_example
from .importers.tally import ImportOptions, Tally

__all__ = [
    "SUFFIXES",
    "Example",
    "ImportOptions",
    "ImportReport",
    "data_digest",
    "import_examples",
    "load_examples",
    "load_files",
    "parse_row",
    "split_held_out",
]


def load_examples(
    data: Any, *, me: str | Sequence[str] | None = None, columns: str | Mapping[str, str] | None = None
) -> list[Example]:
    """Examples as they are, from paths (files or folders), strings, dict rows, or any iterable mixing them.

    A `Path` is a file or folder; a `str` is a path when such a path exists or it looks like one (one line ending in a
    known suffix), else a text. Raises `DataError` naming file and line of the first row that cannot be used: what is
    measured is all of the data, word for word. me, columns: as in `ImportOptions`.
    """
    tally = Tally(ImportOptions.of(me, columns), strict=True)
    examples = list(read_all(data, tally))
    tally.check_senders()
    if not examples:
        raise DataError("there is nothing to read: no rows were found")
    return examples


def import_examples(data: Any, options: ImportOptions | None = None) -> tuple[list[Example], ImportReport]:
    """Examples to learn from: of the same data as `load_examples`, but scrubbed, each once, and what cannot be used counted.

    Raises `DataError` when a named file cannot be read at all, when nothing is left, or when it is not known whose
    messages of a chat are to be learned.
    """
    options = options or ImportOptions()
    tally = Tally(options, strict=False)
    examples: list[Example] = []
    seen: set[bytes] = set()
    for raw in read_all(data, tally):
        example = scrub_example(raw, tally.scrubbed, options.keep_contacts)
        digest = example.digest()
        if digest in seen:
            tally.duplicates.add(example.source)
        else:
            seen.add(digest)
            examples.append(example)
    tally.check_senders()
    if not examples:
        raise tally.first_fault or DataError(
            "there is nothing to learn from in this data",
            found="; ".join(f"{each.count} x {reason}" for reason, each in tally.skipped.items()) or None,
        )
    return examples, _report(examples, tally)


def load_files(paths: Iterable[str | Path]) -> list[Example]:
    """`load_examples` for a command line, where every argument is a path and a missing one is an error."""
    return load_examples([Path(path) for path in paths])


def data_digest(examples: Iterable[Example]) -> str:
    """Hex SHA-256 over the rows' content digests in order: which data, without any of it."""
    total = hashlib.sha256()
    for example in examples:
        total.update(example.digest())
    return total.hexdigest()


def split_held_out(examples: list[Example], *, most: int = 50) -> tuple[list[Example], list[Example]]:
    """(train, held out): fewer than 40 conversations hold out none; else the last 5 % by hash of content, at most `most`.

    By content, so the same row is on the same side whatever the order of the files, and a repeated row never leaks. Rows
    that are parts of one conversation count as one and stay together.
    """
    digests = [example.digest() for example in examples]
    conversation_of: dict[str, bytes] = {}
    for example, digest in zip(examples, digests, strict=True):
        if example.conversation is not None:
            conversation_of.setdefault(example.conversation, digest)
    keys = [
        digest if example.conversation is None else conversation_of[example.conversation]
        for example, digest in zip(examples, digests, strict=True)
    ]
    units = [key for key, example in zip(keys, examples, strict=True) if example.conversation is None]
    units += conversation_of.values()
    if len(units) < 40:
        return list(examples), []
    held_keys = set(sorted(units)[-min(most, max(1, len(units) // 20)) :])
    held: dict[bytes, Example] = {}
    for example, digest, key in zip(examples, digests, keys, strict=True):
        if key in held_keys:
            held.setdefault(digest, example)
    train = [
        example
        for example, digest, key in zip(examples, digests, keys, strict=True)
        if key not in held_keys and digest not in held
    ]
    if not train:
        return list(examples), []
    return train, list(held.values())


def _report(examples: list[Example], tally: Tally) -> ImportReport:
    chats = [example for example in examples if example.messages is not None]
    names = {example.conversation for example in chats if example.conversation is not None}
    return ImportReport(
        files={label: dict(kinds) for label, kinds in tally.files.items()},
        examples=len(examples),
        conversations=len(names) + sum(example.conversation is None for example in chats),
        texts=len(examples) - len(chats),
        turns=sum(len(example.messages or ()) for example in chats),
        learned_turns=sum(
            role == "assistant" and index not in example.unsupervised()
            for example in chats
            for index, (role, _) in enumerate(example.messages or ())
        ),
        characters=sum(
            len(example.text or "") + sum(len(content) for _, content in example.messages or ()) for example in examples
        ),
        refused=tally.refused,
        skipped=tally.skipped,
        duplicates=tally.duplicates,
        scrubbed=dict(tally.scrubbed),
        notes=tally.notes,
        kinds=tally.kinds,
        unused=tally.unused,
    )
