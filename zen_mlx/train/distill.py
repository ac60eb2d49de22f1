"""Distillation: stored tensors -> better ones in the same layouts, for `zen compress` and full-precision runs.

A full-precision run ends here: its latents become signs, with scales in closed form, and these are distilled from the
model with the latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import fsio
from ..adapter.attach import Resident, attach, detach
from ..codec.parts import DensePart
from ..config import BitDeltaConfig, TrainOptions
from ..data.batches import batch_rows
from ..data.tokens import TokenRow
from ..events import Noted, OnEvent
from ..format.spec import DeltaTensor, Profile
from . import checkpoint
from .calibration import CalibrationStats
from .checkpoint import RunState
from .sign_ste import encode_latents
from .soft_labels import soften
from .student import Distilled
from .trainer import train

HELD_SHARE, HELD_MOST = 0.05, 32  # of the rows, for early stopping
PATIENCE = 3


def options_of(
    steps: int, rows: int, seed: int, learning_rate_scale: float = BitDeltaConfig.learning_rate_scale
) -> TrainOptions:
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
    on_event: OnEvent | None = None,
) -> dict[str, DeltaTensor]:
    """`tensors` with scales and factors trained until base + tensors says what the rows' soft labels say.

    The divergence from the teacher on `held` decides which state is kept and when the run ends.
    """
    method = Distilled(tensors, options.config)
    result = train(model, rows, options, held=held, folder=folder, state=state, on_event=on_event, method=method)
    return method.encode(result.latents)


LABELS = 0.5
"""Weight of the rows' own tokens beside what the full-precision model says about them."""


def refine(
    model: nn.Module,
    latents: Mapping[str, mx.array],
    planes: int,
    rows: list[TokenRow],
    options: TrainOptions,
    steps: int,
    folder: Path,
    on_event: OnEvent,
) -> dict[str, DeltaTensor]:
    """`latents` as `planes` sign planes: scales weighed by what the rows make of the layers, then `steps` steps
    towards base + latents. The run lies in `folder`, and goes on from what lies there."""
    run = options_of(steps, len(rows), options.seed)
    seen, held = drawn(rows, run)
    fsio.make_dir(folder)
    attach(model, Resident.from_profile(_as_profile(latents)))
    try:
        both = soften(model, [*seen, *held], folder, LABELS)
    finally:
        detach(model)
    calibration = CalibrationStats(model, rows)
    ordered = {name: latents[name] for name in calibration.order if name in latents}
    tensors = encode_latents(ordered, options.config, planes, calibration.of)
    state = checkpoint.load(folder, lambda text: on_event(Noted(text)))
    seen, held = both[: len(seen)], both[len(seen) :]
    return distill(model, tensors, seen, held, run, folder=folder, state=state, on_event=on_event)


def _as_profile(latents: Mapping[str, mx.array]) -> Profile:
    tensors = {name: DeltaTensor(tuple(each.shape), (DensePart(np.array(each)),)) for name, each in latents.items()}
    return Profile(
        info={"name": "full precision"},
        base={"verified": False},
        metrics={},
        target_count=1,
        model_count=1,
        tensors=tensors,
    )
