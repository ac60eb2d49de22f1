"""What is asked of a model and what comes back: a request, the pieces of its answer, and how the answer ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..config import Sampling

FINISHED = ("stop", "length", "interrupted")


class Grammar(Protocol):
    """What an answer must look like. One grammar may serve many requests; a matcher is one answer's own state."""

    def matcher(self) -> Matcher: ...


class Matcher(Protocol):
    """The tokens that may come next. Not thread-safe; used by one row of a batch."""

    @property
    def failure(self) -> Exception | None:
        """Why the answer had to end before its grammar was satisfied."""

    def consume(self, tokens: Sequence[int]) -> None:
        """The answer went on with `tokens`."""

    def allowed(self) -> Any:
        """bool [V], V the model's vocabulary (with its padding): which tokens may come next."""


@dataclass(frozen=True)
class Request:
    """One answer that is wanted.

    ids: the prompt's tokens, at least one. profile: its name, None for the base alone. stop: texts that end the answer and
    are no part of it. top_logprobs: None for no log-probabilities; k for each token's own and those of the k likeliest
    tokens. grammar: what the answer must look like. continues: the answer goes on with the prompt's text, so that a space at
    its beginning is part of it; the first space of a turn is not. echo: the prompt's text, with which the answer then begins;
    its tokens are among the log-probabilities, the first of them without a value.
    """

    ids: Sequence[int]
    profile: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    continues: bool = False
    echo: str | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """log p(token), natural; p = softmax(logits) before temperature and top_p, after a grammar's mask.

    None for a prompt's first token, which nothing comes before.
    """

    token: int
    text: str
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Piece:
    """The answer goes on with `text`, which came with `tokens` tokens; text may be empty while a character is unfinished."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finish:
    """How an answer ended. finish_reason: "stop", "length" or "interrupted".

    stop: the one of the request's texts that ended it; None where the model ended its turn. cached_tokens: of the prompt,
    found in a cache. tps: tokens per second. seed: the one that was used.
    """

    finish_reason: str
    stop: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prompt_tps: float
    generation_tps: float
    seed: int
