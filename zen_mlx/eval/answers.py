"""BLEU and chrF of greedy answers against the reference's greedy answers to the same prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.example import Example
from ..engine import decoding
from ..engine.decoding import prompt_of, render
from ..errors import ConfigError, DataError
from ..events import Count
from ..fsio import Json

ANSWERS = 4  # without being asked: enough to look at, too few to report
ANSWER_TOKENS = 64
INSTALL = "pip install 'zen-mlx[eval]'"

Prompt = list[Json]


def have_scores() -> bool:
    """Whether sacrebleu is installed."""
    return importlib.util.find_spec("sacrebleu") is not None


def need_scores() -> None:
    """ConfigError, naming the extra, where it is not."""
    if not have_scores():
        raise ConfigError("BLEU and chrF need sacrebleu, which is not installed", field="answers", hint=INSTALL)


def choose_prompts(examples: Sequence[Example], count: int | None = None, seed: int = 0) -> list[Prompt]:
    """`count` conversations, drawn with `seed`, in the order of the data, each up to its last assistant turn.

    DataError where the data has no conversation with a prompt; with None, `ANSWERS` of them and none of no data.
    """
    prompts = []
    for example in examples:
        if messages := prompt_of(example):
            prompts.append(messages)
    if not prompts and count is not None:
        raise DataError("answers need conversations: a prompt and a turn that answers it", field="answers")
    count = ANSWERS if count is None else count
    picked = np.random.default_rng(seed).permutation(len(prompts))[:count]
    return [prompts[index] for index in sorted(picked)]


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], progress: Count = lambda done, total: None
) -> list[str]:
    """`engine.decoding.greedy_answers` of at most `ANSWER_TOKENS` tokens."""
    ids = [render(tokenizer, prompt) for prompt in prompts]
    return [text.strip() for text, _ in decoding.greedy_answers(model, tokenizer, ids, ANSWER_TOKENS, progress)]


def score(answers: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """(BLEU, chrF) of the corpus, 0 to 100, with sacrebleu's defaults (13a tokens, exponential smoothing; chrF2)."""
    need_scores()
    import sacrebleu

    return (
        float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score),
        float(sacrebleu.corpus_chrf(list(answers), [list(references)]).score),
    )
