"""Text that a model generates by itself: generic material for distillation."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..data.tokens import TokenRow

_MARK = "\ue000"
_BATCH = 16


def self_generated(model: nn.Module, tokenizer: TokenizerWrapper, count: int, length: int, seed: int) -> list[TokenRow]:
    """`count` rows of at most `length` tokens, sampled at temperature 1 from where a user's turn begins.

    So the model writes a question and its answer, as it saw them in its own training; a model without a chat template
    starts from its first token. Every sampled token counts. A row ends before the second end of text.
    """
    prefix = _prefix(tokenizer)
    ends = set(tokenizer.eos_token_ids)
    key = mx.random.key(seed)
    rows = []
    for start in range(0, count, _BATCH):
        size = min(_BATCH, count - start)
        cache = make_prompt_cache(model)
        ids = mx.array([prefix] * size)
        logits = model(ids, cache=cache)[:, -1]
        written: list[mx.array] = []
        for _ in range(length - len(prefix)):
            key, now = mx.random.split(key)
            token = mx.random.categorical(logits.astype(mx.float32), key=now)
            written.append(token)
            logits = model(token[:, None], cache=cache)[:, -1]
            mx.eval(token, logits)
        for row in np.array(mx.stack(written, axis=1)).tolist():
            stops = [index for index, token in enumerate(row) if token in ends]
            kept = row[: stops[1]] if len(stops) > 1 else row
            rows.append(TokenRow((*prefix, *kept), (False,) * len(prefix) + (True,) * len(kept)))
    return rows


def _prefix(tokenizer: TokenizerWrapper) -> list[int]:
    """The tokens of the template up to where a user's words begin."""
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
        before = text.partition(_MARK)[0]
        if before:
            return list(tokenizer.encode(before, add_special_tokens=False))
    first = getattr(tokenizer, "bos_token_id", None)
    return [first if first is not None else next(iter(tokenizer.eos_token_ids))]
