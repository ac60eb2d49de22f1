"""The loop: batches -> gradients -> latents, with a checkpoint to go on from.

Knows nothing about files of data, names of profiles or how progress is shown.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config import BitDeltaConfig
from ..data.batches import batch_rows, pack_by_tokens
from ..data.loss import batch_arrays, logits_at_labels, nats
from ..data.tokens import TokenRow
from ..delta.targets import targets
from ..errors import ConfigError, DataError, TrainingError
from . import checkpoint
from .optimizer import CLIP_NORM, AdamState, global_norm, update
from .overlay import Share, array_name, overlaid, put_arrays, trained_arrays
from .road import Factor, Road, Sign

MICRO_TOKENS = 1024  # padded tokens of one forward and backward
CHECKPOINT_SECONDS = 300.0
ROADS: dict[str, type[Road]] = {"sign": Sign, "factor": Factor}
EXPLODED_NATS = 50.0  # a model that knows nothing loses ln(vocabulary), about 11


@dataclass(frozen=True)
class TrainOptions:
    """steps, when given, replaces epochs; a step takes batch_size * accumulate rows of at most max_length tokens.

    method: `sign` or `factor`; bits_per_weight: what the whole file may take, for `factor` (default 0.33).
    """

    epochs: float = 2.0
    steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    max_length: int = 1024
    seed: int = 0
    method: str = "sign"
    bits_per_weight: float | None = None
    config: BitDeltaConfig = field(default_factory=BitDeltaConfig)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("accumulate", 1), ("max_length", 8), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"bad {name}", field=name, expected=f"at least {least}", found=getattr(self, name))
        if self.steps is not None and self.steps < 1:
            raise ConfigError("bad steps", field="steps", expected="at least 1", found=self.steps)
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ConfigError("bad epochs", field="epochs", expected="a number > 0", found=self.epochs)
        if self.method not in ROADS:
            raise ConfigError("unknown method", field="method", expected=", ".join(ROADS), found=self.method)
        bits = self.bits_per_weight
        if bits is not None and not (math.isfinite(bits) and 0.02 <= bits <= 4):
            raise ConfigError("bad bits per weight", field="bits_per_weight", expected="0.02 to 4", found=bits)

    @property
    def rows_per_step(self) -> int:
        """Rows whose mean gradient makes one step."""
        return self.batch_size * self.accumulate

    def step_count(self, rows: int) -> int:
        """Steps of the run over `rows` rows."""
        return self.steps or max(1, math.ceil(self.epochs * rows / self.rows_per_step))

    def facts(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)


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


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and saved its state; `step` of `steps` were done."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}; --resume goes on from there")
        self.step = step
        self.steps = steps


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
                total, tokens, grads = _gradients(grad_of, picked)
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


def road_of(options: TrainOptions, model: nn.Module) -> Road:
    """The road that `options` name, for this model. ConfigError where its bits do not pay for anything."""
    return ROADS[options.method](options.config, options.seed, options.bits_per_weight, targets(model))


def _gradients(grad_of: Callable[..., Any], rows: list[TokenRow]) -> tuple[float, int, dict[str, mx.array]]:
    """(sum of nats, supervised tokens, gradient of the sum by parameter name) of one step's rows."""
    total, tokens = 0.0, 0
    grads: dict[str, mx.array] = {}
    for batch in pack_by_tokens(rows, MICRO_TOKENS):
        loss, tree = grad_of(*batch_arrays(batch))
        flat = {}
        for path, value in tree_flatten(tree):
            layer, _, key = path.rpartition(".")
            flat[array_name(f"{layer}.weight", key)] = value
        for name, value in flat.items():
            grads[name] = grads[name] + value if name in grads else value
        del tree, flat
        mx.eval(loss, grads)
        total += loss.item()
        tokens += batch.targets
    return total, tokens, grads


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT and SIGTERM only set a flag, which the yielded function returns; a second one acts."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
