"""Decoding of one prompt after the other: sampling of tokens with a model that has its profile attached, or none.

token[t+1] ~ softmax(logits / temperature), cut to the nucleus of mass top_p; argmax at temperature 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..config import Sampling
from ..data.example import Example
from ..errors import InputError
from ..events import Count
from ..fsio import Json
from .batch import Batch, finished
from .prompt_cache import PromptCaches
from .request import Request

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_TOGETHER = 8  # prompts that are answered at the same time
_NO_LIMIT = 2**31

Message = dict[str, str]


@dataclass(frozen=True)
class Generation:
    """One answer and what it took. finish_reason: "stop", "length" or "interrupted"; tps: tokens per second."""

    text: str
    model: str
    profile: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    prompt_tps: float
    generation_tps: float
    seed: int

    def to_dict(self) -> Json:
        """The document of `zen generate --json`."""
        return asdict(self)


def context_length(model: nn.Module) -> int:
    """Most tokens the model can look at; a very large number for a model that does not say."""
    args = getattr(model, "args", None)
    for name in ("max_position_embeddings", "max_seq_len", "n_positions"):
        for place in (args, getattr(args, "text_config", None)):
            value = place.get(name) if isinstance(place, dict) else getattr(place, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return _NO_LIMIT


def has_template(tokenizer: TokenizerWrapper) -> bool:
    """Whether the model knows turns."""
    return bool(getattr(tokenizer, "has_chat_template", False))


def render(tokenizer: TokenizerWrapper, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation through the model's chat template, up to where the assistant speaks.

    InputError for text that is none, a model without a template, and one whose template refuses these roles.
    """
    if not has_template(tokenizer):
        raise InputError(
            "this model has no chat template, so it cannot hold a conversation",
            hint="use an instruction-tuned model; `zen generate` continues plain text without a template",
        )
    for message in messages:
        check_text(message.get("content"), "messages")
    try:
        ids = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's: whatever it raises is about this conversation
        raise InputError(
            "the model's chat template refuses this conversation",
            field="messages",
            found=", ".join(message["role"] for message in messages),
            hint="some models do not accept a system message",
        ) from error
    return [int(token) for token in ids]


def checked(messages: Sequence[Message]) -> Sequence[Message]:
    """`messages`, if they are turns {"role", "content", ...}, at least one; else InputError."""
    turns = isinstance(messages, Sequence) and all(
        isinstance(each, Mapping) and isinstance(each.get("role"), str) for each in messages
    )
    if not turns or not messages:
        raise InputError(
            "a conversation is a list of turns, at least one",
            field="messages",
            expected='[{"role": "user", "content": "..."}, ...], or a text',
            found="none" if not messages else type(messages).__name__,
        )
    return messages


def check_text(text: object, field: str) -> None:
    """InputError for half a character, which no tokenizer can read; texts of other kinds are the template's affair."""
    try:
        if isinstance(text, str):
            text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "not valid text: it has half of a character", field=field, found=f"at {error.start}"
        ) from error


def prompt_ids(tokenizer: TokenizerWrapper, prompt: str, system: str | None = None) -> list[int]:
    """`prompt` as a user turn; the plain text for a model without a chat template."""
    if has_template(tokenizer):
        messages = [{"role": "system", "content": system}] if system else []
        return render(tokenizer, [*messages, {"role": "user", "content": prompt}])
    if system:
        raise InputError("this model has no chat template, so it accepts no system message", field="system")
    check_text(prompt, "prompt")
    ids = [int(token) for token in tokenizer.encode(prompt)]
    if not ids:
        raise InputError("the prompt is empty", field="prompt")
    return ids


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompt: str,
    sampling: Sampling,
    *,
    system: str | None = None,
    model_name: str = "",
    profile: str | None = None,
    on_text: Callable[[str], None] = lambda text: None,
) -> Generation:
    """Answer one prompt, calling `on_text` with each piece as it comes.

    The answer ends where the context does. InputError for a prompt that fills the context.
    """
    ids = prompt_ids(tokenizer, prompt, system)
    room = context_length(model) - len(ids)
    if room < 1:
        raise InputError(
            "the prompt is longer than the model's context",
            field="prompt",
            expected=f"fewer than {context_length(model)} tokens",
            found=f"{len(ids)} tokens",
        )
    batch = Batch(model, tokenizer, streams=1, caches=PromptCaches(0))
    row = batch.add(Request(ids, sampling=replace(sampling, max_tokens=min(sampling.max_tokens, room))))
    pieces = []
    for piece in batch.pieces(row):
        pieces.append(piece.text)
        on_text(piece.text)
    finish = finished(row)
    return Generation(
        text="".join(pieces),
        model=model_name,
        profile=profile,
        finish_reason=finish.finish_reason,
        prompt_tokens=finish.prompt_tokens,
        completion_tokens=finish.completion_tokens,
        prompt_tps=round(finish.prompt_tps, 2),
        generation_tps=round(finish.generation_tps, 2),
        seed=finish.seed,
    )


def prompt_of(example: Example) -> list[dict[str, Any]]:
    """The turns before the last assistant turn; none where there is no such turn, or nothing before it."""
    messages = example.chat_messages()
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages[:-1]


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    most_tokens: int,
    progress: Count = lambda done, total: None,
) -> list[tuple[str, bool]]:
    """(text, whether it was cut off) for the token ids of each prompt: the likeliest token again and again.

    An answer ends with the turn, after `most_tokens` tokens, or where the context ends.
    """
    requests = [greedy_request(model, ids, most_tokens) for ids in prompts]
    return [(text, reason == "length") for text, reason in answers(model, tokenizer, requests, progress)]


def greedy_request(model: nn.Module, ids: Sequence[int], most_tokens: int, stop: Sequence[str] = ()) -> Request:
    """The likeliest tokens after `ids`, at most `most_tokens`, to the end of the context."""
    room = min(most_tokens, context_length(model) - len(ids))
    return Request(ids, sampling=Sampling(max(1, room), 0.0, seed=0), stop=tuple(stop))


def answers(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    requests: Sequence[Request],
    progress: Count = lambda done, total: None,
) -> list[tuple[str, str]]:
    """(text, finish reason) of each request, some of them at a time."""
    batch = Batch(model, tokenizer, streams=_TOGETHER, caches=PromptCaches(0))
    rows = [batch.add(request) for request in requests]
    texts = {id(row): "" for row in rows}
    while len(batch):
        progress(len(rows) - len(batch), len(rows))
        for row, piece in batch.step():
            texts[id(row)] += piece.text
    progress(len(rows), len(rows))
    return [(texts[id(row)], finished(row).finish_reason) for row in rows]
