"""BLEU and chrF of greedy answers against the reference's greedy answers to the same prompts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import Sampling
from ..data.example import Example
from ..engine.decoding import Decoding, render
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
        messages = example.chat_messages()
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if len(messages) > 1:
            prompts.append(messages[:-1])
    if not prompts and count is not None:
        raise DataError("answers need conversations: a prompt and a turn that answers it", field="answers")
    count = ANSWERS if count is None else count
    picked = np.random.default_rng(seed).permutation(len(prompts))[:count]
    return [prompts[index] for index in sorted(picked)]


def greedy_answers(model: Any, tokenizer: Any, prompts: Sequence[Prompt], progress: Count | None = None) -> list[str]:
    """The likeliest token again and again, to the end of the turn or `ANSWER_TOKENS`."""
    answers = []
    for done, prompt in enumerate(prompts, start=1):
        decoding = Decoding(model, tokenizer, render(tokenizer, prompt), Sampling(ANSWER_TOKENS, 0.0, 1.0, 0))
        answers.append("".join(decoding).strip())
        if progress is not None:
            progress(done, len(prompts))
    return answers


def score(answers: Sequence[str], references: Sequence[str]) -> tuple[float, float]:
    """(BLEU, chrF) of the corpus, 0 to 100, with sacrebleu's defaults (13a tokens, exponential smoothing; chrF2)."""
    need_scores()
    import sacrebleu

    return (
        float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score),
        float(sacrebleu.corpus_chrf(list(answers), [list(references)]).score),
    )
