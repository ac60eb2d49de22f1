"""Log-probabilities of tokens: an answer's, and a prompt's own where the answer begins with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .request import TokenLogprob

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def with_top(tokenizer: TokenizerWrapper, tokens: Sequence[int], logprobs: mx.array, top: int) -> list[TokenLogprob]:
    """`tokens` [S] with their values in `logprobs` [S, V], and the `top` likeliest tokens of each row; top < V."""
    import mlx.core as mx

    indices = [mx.array([int(token) for token in tokens])[:, None]]
    if top == 1:
        indices.append(mx.argmax(logprobs, axis=-1, keepdims=True).astype(mx.int32))
    elif top:
        indices.append(mx.argpartition(-logprobs, kth=top, axis=-1)[:, :top].astype(mx.int32))
    found = mx.concatenate(indices, axis=-1)
    values = np.array(mx.take_along_axis(logprobs, found, axis=-1).astype(mx.float32)).tolist()
    return [_row(tokenizer, *each) for each in zip(np.array(found).tolist(), values, strict=True)]


def _row(tokenizer: TokenizerWrapper, tokens: list[int], values: list[float]) -> TokenLogprob:
    named = [TokenLogprob(token, tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)]
    order = sorted(range(1, len(tokens)), key=lambda index: -values[index])
    return TokenLogprob(named[0].token, named[0].text, named[0].logprob, tuple(named[index] for index in order))


def of_prompt(
    tokenizer: TokenizerWrapper,
    ids: Sequence[int],
    top: int,
    part: int,
    forward: Callable[[mx.array], mx.array],
    cache: Sequence[Any],
) -> Iterator[list[TokenLogprob]]:
    """`with_top` of each of `ids`, in turns of `part` tokens; the first has no value, as nothing comes before it.

    forward: tokens [1, S] -> logits [1, S, V], on top of what `cache` holds, which is all but the last of `ids` at the end.
    """
    import mlx.core as mx

    yield [TokenLogprob(int(ids[0]), tokenizer.decode([int(ids[0])]), None)]
    for start in range(0, len(ids) - 1, part):
        given = [int(token) for token in ids[start : min(start + part, len(ids) - 1)]]
        following = [int(token) for token in ids[start + 1 : start + 1 + len(given)]]
        logits = forward(mx.array([given]))[0].astype(mx.float32)
        scored = with_top(tokenizer, following, logits - mx.logsumexp(logits, axis=-1, keepdims=True), top)
        mx.eval([each.state for each in cache])
        yield scored
