"""The loop: batches -> gradients -> latents, with a checkpoint to go on from.

Knows nothing about files of data, names of profiles or how progress is shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..data.batches import batch_rows
from ..data.loss import logits_at_labels, nats
from ..data.tokens import TokenRow
from ..errors import ConfigError, DataError, TrainingError
from . import checkpoint
from .gradients import step_gradients
from .optimizer import CLIP_NORM, AdamState, global_norm, update
from .options import TrainOptions, road_of
from .overlay import Share, overlaid, put_arrays, trained_arrays
from .signals import Interrupted, stop_signals

__all__ = ["Interrupted", "StepReport", "TrainOptions", "TrainResult", "road_of", "train"]

CHECKPOINT_SECONDS = 300.0
EXPLODED_NATS = 50.0  # a model that knows nothing loses ln(vocabulary), about 11


@dataclass(frozen=True)
class StepReport:
    """What one step did. loss: mean nats per supervised token of its batch; tokens: supervised ones."""

    step: int
    steps: int
    loss: float
    rate: float
    quantized_share: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """The trained arrays at the end (f32, by `overlay.array_name`) and the loss of every step that this process ran."""

    latents: dict[str, mx.array]
    losses: list[float]
    steps: int
    resumed_from: int


def train(
    model: nn.Module,
    rows: list[TokenRow],
    options: TrainOptions,
    *,
    folder: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> TrainResult:
    """Train a delta for every target of `model` and return its arrays; the model is left as it was.

    With `folder`, the run is checkpointed there every five minutes and on SIGINT or SIGTERM (then `Interrupted` is
    raised), and goes on from a checkpoint that lies there. On the CPU, a resumed run ends in the same bytes.
    Raises `TrainingError` when the loss explodes or is no longer a number; the last checkpoint stays.
    """
    if not rows:
        raise DataError("there are no rows to train on")
    steps = options.step_count(len(rows))
    config = options.config
    road = road_of(options, model)
    schedule = road.schedule(steps)
    if schedule.peak * config.delta_regularization >= 1:
        raise ConfigError(
            "the penalty would set every delta to zero",
            field="delta_regularization",
            expected=f"less than {1 / schedule.peak:g} at this learning rate",
            found=config.delta_regularization,
        )
    share = Share()
    losses: list[float] = []
    with overlaid(model, lambda name, base, shape: road.layer(name, base, shape, share)) as layers:
        adam = AdamState()
        latents = trained_arrays(layers)
        if folder is not None and checkpoint.exists(folder):
            latents, adam = checkpoint.load(folder)
        start = adam.step

        def save() -> None:
            if folder is not None:
                checkpoint.save(folder, facts or {}, latents, adam)

        with stop_signals() as stopped, logits_at_labels(model) as forward:
            grad_of = nn.value_and_grad(model, lambda i, p, y, w: nats(forward(i, p), y, w))
            saved_at = time.monotonic()
            for step in range(start, steps):
                began = time.monotonic()
                put_arrays(layers, latents)
                share.value = schedule.quantized_share(step)
                picked = batch_rows(rows, options.rows_per_step, options.seed, step)
                total, tokens, grads = step_gradients(grad_of, picked)
                loss = total / max(tokens, 1)
                norm = global_norm(grads) / max(tokens, 1)
                if not (loss < EXPLODED_NATS and math.isfinite(norm)):
                    raise TrainingError(
                        f"the loss has exploded at step {step + 1}; the last checkpoint, if any, is kept",
                        field="learning_rate_scale",
                        found=config.learning_rate_scale,
                        hint="use a smaller learning_rate_scale",
                    )
                rate = schedule.rate(step)
                clip = min(1.0, CLIP_NORM / (norm + 1e-6))
                update(
                    latents,
                    grads,
                    adam,
                    rate=rate,
                    grad_scale=clip / max(tokens, 1),
                    l2=config.delta_regularization,
                    l1=config.sparsity_penalty,
                )
                losses.append(loss)
                if on_step is not None:
                    seconds = time.monotonic() - began
                    on_step(StepReport(step + 1, steps, loss, rate, share.value, tokens, seconds))
                if stopped() and step + 1 < steps:
                    save()
                    raise Interrupted(step + 1, steps)
                if time.monotonic() - saved_at > CHECKPOINT_SECONDS and step + 1 < steps:
                    save()
                    saved_at = time.monotonic()
    return TrainResult(latents, losses, steps, start)
