"""Stored tensors -> better ones of the same layouts: the last stage of `zen compress`, and of a full-precision run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.nn as nn

from ..config import BitDeltaConfig
from ..data.batches import batch_rows
from ..data.tokens import TokenRow
from ..format.spec import DeltaTensor
from .options import TrainOptions
from .state import RunState
from .student import Distilled
from .trainer import train

HELD_SHARE, HELD_MOST = 0.05, 32  # of the rows, for early stopping
PATIENCE = 3


def options_of(steps: int, rows: int, seed: int, learning_rate_scale: float = 0.1) -> TrainOptions:
    """The run that distils over `rows` rows; no penalties: nothing is to be made smaller here."""
    config = BitDeltaConfig(
        delta_regularization=0.0, sparsity_penalty=0.0, warmup_steps=5, learning_rate_scale=learning_rate_scale
    )
    patience = PATIENCE if held_rows(rows) else None
    return TrainOptions(steps=steps, seed=seed, config=config, patience=patience)


def held_rows(rows: int) -> int:
    """How many of `rows` are held out: from 20 on a twentieth, at most 32."""
    return min(HELD_MOST, int(rows * HELD_SHARE))


def drawn(rows: list[TokenRow], options: TrainOptions) -> tuple[list[TokenRow], list[TokenRow]]:
    """(rows that the run will look at, rows held out): a teacher need not see any other."""
    count = held_rows(len(rows))
    held, rest = rows[:count], rows[count:]
    size = options.rows_of_step(len(rest))
    if size * options.step_count(len(rest)) >= len(rest):
        return rest, held
    return [
        row for step in range(options.step_count(len(rest))) for row in batch_rows(rest, size, options.seed, step)
    ], held


def distill(
    model: nn.Module,
    tensors: Mapping[str, DeltaTensor],
    rows: list[TokenRow],
    held: list[TokenRow],
    options: TrainOptions,
    *,
    folder: Path | None = None,
    state: RunState | None = None,
    on_event: Callable[[Any], None] | None = None,
) -> dict[str, DeltaTensor]:
    """`tensors` with scales and factors trained until base + tensors says what the rows' soft labels say.

    The divergence from the teacher on `held` decides which state is kept and when the run ends.
    """
    road = Distilled(tensors, options.config)
    result = train(model, rows, options, held=held, folder=folder, state=state, on_event=on_event, road=road)
    return road.encode(result.latents)
