"""What is served in a bench: random profiles of each kind, and a tokenizer that ends no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn
import numpy as np

from ..adapter.resident import Resident
from ..adapter.resident_set import ResidentSet
from ..adapter.targets import targets
from ..config import FACTOR_BITS, Sampling
from ..encode.byte_budget import BITS, ranks
from ..engine.request import Request
from ..format.spec import Profile
from .synthetic import Groups, random_factors, random_profile

_PROMPT_TOKENS = 16
_MOST_TOKENS = 1 << 16  # of an answer: no row ends by itself
_FIRST_WORD = 1


class NoText:
    """Stands in for mlx-lm's tokenizer: no token ends an answer, and none has a text."""

    eos_token_ids: frozenset[int] = frozenset()
    last_segment = ""

    @property
    def detokenizer(self) -> NoText:
        """Itself."""
        return self

    def add_token(self, token: int) -> None:
        """Nothing comes of it."""

    def finalize(self) -> None:
        """Nothing is left."""


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    """`count` random prompts of 16 tokens, the same at each call."""
    rng = np.random.default_rng(0)
    return [rng.integers(_FIRST_WORD, vocabulary, _PROMPT_TOKENS).tolist() for _ in range(count)]


def endless(prompt: list[int], profile: str | None = None) -> Request:
    """A greedy answer that goes on until it is cancelled."""
    return Request(prompt, profile, Sampling(max_tokens=_MOST_TOKENS, temperature=0.0, seed=0))


def _sign(model: nn.Module, index: int) -> Profile:
    return random_profile(model, f"sign-{index}", index, "rowcol")


def _factor(model: nn.Module, index: int) -> Profile:
    return random_factors(model, f"factor-{index}", index, one_rank(targets(model)))


def _own_ranks(model: nn.Module, index: int) -> Profile:
    """In a trained profile each layer has the bits and ranks that it needs, so hardly two agree."""
    rng = np.random.default_rng(index)
    groups = {name: _split(rng, rank) for name, ((_, rank),) in one_rank(targets(model)).items()}
    return random_factors(model, f"own-{index}", index, groups)


def one_rank(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Groups]:
    """4-bit factors of one rank everywhere, as many as a factor run's default size pays for."""
    return {name: ((BITS, rank),) for name, rank in ranks(shapes, FACTOR_BITS).items()}


def _split(rng: np.random.Generator, rank: int) -> Groups:
    """Some columns in 4 bits, and twice as many as are left in 2: the same number of bits."""
    wide = int(rng.integers(1 + rank // 4, 1 + 3 * rank // 4)) if rank > 1 else 1
    return ((4, wide), (2, 2 * (rank - wide))) if rank > wide else ((4, wide),)


KINDS: dict[str, Callable[[nn.Module, int], Profile]] = {
    "sign": _sign,
    "factor": _factor,
    "factor, own ranks": _own_ranks,
}
"""Kind -> the random profile of a number: one-bit with row and column scales; factors, all of one form; factors, each of
forms of its own."""


@contextmanager
def resident(model: nn.Module, kind: str, count: int) -> Iterator[ResidentSet]:
    """Within the block `model` has `count` profiles of `kind`, with the keys "0", "1", ..."""
    residents = ResidentSet(model, count)
    try:
        for index in range(count):
            for _ in residents.load(str(index), Resident.from_profile(KINDS[kind](model, index))):
                pass
        yield residents
    finally:
        residents.close()


def words_of(model: Any) -> int:
    """The vocabulary of a random model."""
    return int(model.args.vocab_size)
