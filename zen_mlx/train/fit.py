"""A base's name and examples -> whether the run fits this machine, before a weight of the base is read."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.build import build
from ..base.check import read_config
from ..base.load import load_tokenizer
from ..base.loaded import context_length
from ..base.progress import Progress
from ..base.pull import pull
from ..data.examples import Example
from ..data.tokens import crop, tokenize
from ..errors import DataError
from ..memory import machine_limit
from .needs import Fitted, fitting
from .options import TrainOptions

_MOST_EXAMPLES = 4000
"""Of more, the longest are looked at: they alone decide."""


def fit_run(
    base: str,
    examples: Sequence[Example],
    held: Sequence[Example],
    options: TrainOptions,
    limit_bytes: int | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """The run of `options` against `limit_bytes` (None: the machine's); the base is fetched, not loaded."""
    folder = pull(base, progress)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder, config)
    rows, _ = crop(tokenize(_longest(examples), tokenizer, options.max_length), options.max_length)
    if not rows:
        raise DataError("every row is longer than max_length", field="max_length", found=options.max_length)
    held_rows = tokenize(_longest(held), tokenizer, context_length(config))
    limit, source = (limit_bytes, "the limit given") if limit_bytes is not None else machine_limit()
    return fitting(build(folder), rows, held_rows, options, limit, source)


def _longest(examples: Sequence[Example]) -> list[Example]:
    if len(examples) <= _MOST_EXAMPLES:
        return list(examples)
    return sorted(examples, key=lambda example: len(str(example.text or example.messages)))[-_MOST_EXAMPLES:]
