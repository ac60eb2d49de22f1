"""Examples -> token rows with a mark on every supervised token.

Supervised are the content of every assistant turn with its tool calls, and its end-of-turn token, through the model's own
chat template; not the newline the template may put after it. In a text without template every token but the first is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..fsio import Json
from .example import Example

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_OTHER = ("\ue000", "\ue001")  # private-use letters that no template looks at


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


def tokenize(examples: Iterable[Example], tokenizer: TokenizerWrapper, window: int) -> list[TokenRow]:
    """Rows of every example, nothing truncated; a text becomes windows of `window` tokens that share one token.

    Raises `DataError` when the model has no chat template for conversations, or the template does not show a turn.
    """
    rows: list[TokenRow] = []
    for example in examples:
        if example.messages is not None:
            rows.append(_conversation(example, tokenizer))
        else:
            rows.extend(_text(example, tokenizer, window))
    return rows


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


def _conversation(example: Example, tokenizer: TokenizerWrapper) -> TokenRow:
    assert example.messages is not None
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "this model has no chat template, so it cannot read conversations",
            path=example.source,
            hint="use rows with a `text` field, or an instruction-tuned model",
        )
    messages = example.chat_messages()
    rendered = _render(tokenizer, messages, example)
    fast: Any = getattr(tokenizer, "_tokenizer", tokenizer)  # mlx-lm's wrapper is not callable
    encoded = fast(rendered, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.eos_token_ids)
    supervised = [False] * len(ids)
    index = 0
    for begin, end in _assistant_spans(rendered, messages, tokenizer, example):
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
    return TokenRow(tuple(ids), tuple(supervised))


def _assistant_spans(
    rendered: str, messages: list[Json], tokenizer: TokenizerWrapper, example: Example
) -> list[tuple[int, int]]:
    """Character spans [begin, end) of the assistant contents in the rendered conversation.

    A content begins where the conversation with another content in its place first differs: it cannot be taken for
    the same words elsewhere, such as in a header or an empty block of thoughts.
    """
    spans = []
    unsupervised = example.unsupervised()
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index in unsupervised:
            continue
        content = message["content"]
        if "tool_calls" in message:
            spans.append(_call_span(rendered, messages, index, tokenizer, example))
            continue
        other = _OTHER[content.strip().startswith(_OTHER[0])]
        changed = [*messages[:index], {**message, "content": other}, *messages[index + 1 :]]
        begin = _common_prefix(rendered, _render(tokenizer, changed, example))
        trims = (content, content.strip(), content.rstrip(), content.lstrip())  # templates may trim
        shown = next((text for text in trims if rendered.startswith(text, begin)), None)
        if shown is None:
            raise DataError(
                "the model's chat template changes this turn's text, so it cannot be supervised",
                path=example.source,
                field=f"messages[{index}].content",
            )
        spans.append((begin, begin + len(shown)))
    return spans


def _call_span(
    rendered: str, messages: list[Json], index: int, tokenizer: TokenizerWrapper, example: Example
) -> tuple[int, int]:
    """The span of an assistant turn with tool calls: what differs when one unseen letter stands in its place."""

    def instead(turn: Json) -> str:
        return _render(tokenizer, [*messages[:index], turn, *messages[index + 1 :]], example)

    plain = instead({"role": "assistant", "content": _OTHER[0]})
    begin = _common_prefix(rendered, plain)
    after = plain.find(_OTHER[0], begin) + 1
    end = len(rendered) - _common_prefix(rendered[begin:][::-1], plain[after:][::-1])
    if not after or instead({"role": "assistant", "content": messages[index]["content"]}) == rendered:
        raise DataError(
            "the model's chat template does not show tool calls, so they cannot be learned",
            path=example.source,
            field=f"messages[{index}].tool_calls",
            hint="use a base whose template knows tools, or rows without tool calls",
        )
    return begin, end


def _render(tokenizer: TokenizerWrapper, messages: list[Json], example: Example) -> str:
    tools = example.tool_list()
    options = {"tools": tools} if tools else {}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False, **options))
    except Exception as error:  # a template is a program of the model's: whatever it raises is about this row
        raise DataError(
            "the model's chat template refuses this conversation", path=example.source, found=type(error).__name__
        ) from error


def _common_prefix(a: str, b: str) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
