"""Greedy answers to conversations: the prompt that a row makes, and the likeliest tokens after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import Sampling
from ..data.example import Example
from ..events import Count
from .decoding import Decoding, context_length


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
    answers = []
    for done, ids in enumerate(prompts):
        progress(done, len(prompts))
        room = min(most_tokens, context_length(model) - len(ids))
        decoding = Decoding(model, tokenizer, ids, Sampling(max(1, room), 0.0, seed=0))
        text = "".join(decoding)
        answers.append((text, decoding.finish_reason == "length"))
    progress(len(prompts), len(prompts))
    return answers
