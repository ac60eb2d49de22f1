"""Examples -> token rows with a mark on every supervised token.

Supervised are the content of every assistant turn with its tool calls, and its end-of-turn token, through the model's own
chat template (`supervised.py`); not the newline the template may put after it. In a text without template every token but
the first is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..events import PLACES_KEPT, ImportReport, Reason
from .example import Example
from .supervised import shown

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


_HIDDEN = "thoughts, which this model's chat template does not show"


class Soft(NamedTuple):
    """ids u32 and log-probabilities f16 [targets, k] of a teacher's likeliest tokens (`train.soft_labels`).

    hard: weight of the nats of the row's own tokens; 1 - hard is that of the distance from the teacher.
    square: weight of `data.loss.square` in that distance; 1 - square is that of `data.loss.divergence`.
    """

    ids: np.ndarray
    logp: np.ndarray
    hard: float = 0.0
    square: float = 0.0


@dataclass(frozen=True)
class TokenRow:
    """ids[t]: tokens of one row; supervised[t]: token t is predicted from the tokens before it and counts.

    soft: what a teacher says about each supervised token.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    soft: Soft | None = field(default=None, compare=False)

    @property
    def targets(self) -> int:
        """Number of supervised tokens."""
        return sum(self.supervised)


@dataclass
class Usable:
    """The examples that a model can learn from and their rows; refused: why others cannot; hidden: thoughts not shown."""

    examples: list[Example] = field(default_factory=list)
    rows: list[TokenRow] = field(default_factory=list)
    refused: dict[str, Reason] = field(default_factory=dict)
    hidden: Reason = field(default_factory=Reason)
    first_fault: DataError | None = None


def tokenize(examples: Iterable[Example], tokenizer: TokenizerWrapper, window: int) -> list[TokenRow]:
    """Rows of every example, nothing truncated; a text becomes windows of `window` tokens that share one token.

    Raises `DataError` when the model has no chat template for conversations, or the template does not show a turn.
    """
    rows: list[TokenRow] = []
    for example in examples:
        if example.messages is not None:
            rows.append(_conversation(example, tokenizer)[0])
        else:
            rows.extend(_text(example, tokenizer, window))
    return rows


def tokenize_usable(examples: Iterable[Example], tokenizer: TokenizerWrapper, window: int) -> Usable:
    """As `tokenize`, but an example that this model cannot learn from is left out and counted."""
    usable = Usable()
    for example in examples:
        try:
            if example.messages is None:
                usable.rows.extend(_text(example, tokenizer, window))
            else:
                row, hidden = _conversation(example, tokenizer)
                usable.rows.append(row)
                if hidden:
                    usable.hidden.add(example.source)
        except DataError as error:
            usable.first_fault = usable.first_fault or error
            usable.refused.setdefault(error.message, Reason()).add(example.source)
        else:
            usable.examples.append(example)
    return usable


def with_model(report: ImportReport, *parts: Usable) -> ImportReport:
    """`report` with what a model cannot use of its examples."""
    refused, unused = dict(report.refused), dict(report.unused)
    for part in parts:
        for reason, each in part.refused.items():
            refused[reason] = _sum(refused.get(reason), each)
        if part.hidden.count:
            unused[_HIDDEN] = _sum(unused.get(_HIDDEN), part.hidden)
    return replace(report, refused=refused, unused=unused)


def _sum(a: Reason | None, b: Reason) -> Reason:
    return b if a is None else Reason(a.count + b.count, [*a.places, *b.places][:PLACES_KEPT])


def crop(rows: list[TokenRow], length: int) -> tuple[list[TokenRow], int]:
    """(rows of at most `length` tokens, how many were cut or lost): for training, where memory is bounded."""
    out, cut = [], 0
    for row in rows:
        if len(row.ids) <= length:
            out.append(row)
            continue
        cut += 1
        short = TokenRow(row.ids[:length], row.supervised[:length])
        if short.targets:
            out.append(short)
    return out, cut


def _text(example: Example, tokenizer: TokenizerWrapper, window: int) -> list[TokenRow]:
    assert example.text is not None
    ids = list(tokenizer.encode(example.text, add_special_tokens=False))
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and getattr(tokenizer, "add_bos_token", False):
        ids.insert(0, bos)
    rows = []
    for start in range(0, max(len(ids) - 1, 0), window - 1):
        piece = tuple(ids[start : start + window])
        rows.append(TokenRow(piece, (False,) + (True,) * (len(piece) - 1)))
    if not rows:
        raise DataError("a text needs at least two tokens", path=example.source, field="text")
    return rows


def _conversation(example: Example, tokenizer: TokenizerWrapper) -> tuple[TokenRow, bool]:
    """(the row, whether the template hides its thoughts)."""
    assert example.messages is not None
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "this model has no chat template, so it cannot read conversations",
            path=example.source,
            hint="use rows with a `text` field, or an instruction-tuned model",
        )
    rendered, spans, hidden = shown(example, tokenizer)
    fast: Any = getattr(tokenizer, "_tokenizer", tokenizer)  # mlx-lm's wrapper is not callable
    encoded = fast(rendered, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.eos_token_ids)
    supervised = [False] * len(ids)
    index = 0
    for begin, end in spans:
        while index < len(ids) and offsets[index][0] < end:
            supervised[index] = offsets[index][1] > begin
            index += 1
        # The end-of-turn token is the special one behind the content; a template may put a space between.
        after = index
        while after < len(ids) and ids[after] not in special and not rendered[end : offsets[after][1]].strip():
            after += 1
        if after < len(ids) and ids[after] in special and not rendered[end : offsets[after][0]].strip():
            supervised[after] = True
            index = after + 1
    if supervised:
        supervised[0] = False  # nothing comes before the first token to predict it from
    if not any(supervised):
        raise DataError("the chat template leaves nothing to learn in this row", path=example.source)
    return TokenRow(tuple(ids), tuple(supervised)), hidden
