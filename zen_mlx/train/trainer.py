"""The training loop: batches -> gradients -> latents, with checkpoints for a resume and losses on held-out rows.

Knows nothing about files of data, names of profiles or how progress is shown.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ..config import TrainOptions
from ..data.batches import batch_rows
from ..data.loss import mean_loss
from ..data.tokens import TokenRow
from ..errors import ConfigError, DataError, StorageError, TrainingError
from ..events import Evaluated, Noted, OnEvent, Saved, StepReport, ignore
from ..memory import bounded_cache
from . import checkpoint
from .checkpoint import Interrupted, RunState, stop_signals
from .distributed import ProcessGroup
from .early_stopping import EarlyStop, Guard
from .gradients import step_gradients
from .methods import Method, method_of
from .optimizer import CLIP_NORM, AdamState, global_norm, update
from .schedule import Schedule
from .trainable import QuantizationRamp, TrainableLayer, put_arrays, trainable_layers, trained_arrays

__all__ = ["Interrupted", "StepReport", "TrainOptions", "TrainResult", "check_run", "method_of", "train"]

HELD_ROWS, HELD_TOKENS = 32, 8192  # most that one look at held-out rows computes


@dataclass(frozen=True)
class TrainResult:
    """The arrays to be stored (f32, by `array_name`) and the loss of every step that this process ran.

    step: the one they are from; it is below `steps` when an earlier one was better on held-out rows.
    """

    latents: dict[str, mx.array]
    losses: list[float]
    steps: int
    resumed_from: int
    step: int


def train(
    model: nn.Module,
    rows: list[TokenRow],
    options: TrainOptions,
    *,
    held: Sequence[TokenRow] = (),
    folder: Path | None = None,
    state: RunState | None = None,
    on_event: OnEvent | None = None,
    method: Method | None = None,
    team: ProcessGroup | None = None,
) -> TrainResult:
    """Train a delta for every target of `model` and return its arrays; the model is left as it was.

    With `folder`, the run is checkpointed there every `options.checkpoint_s` seconds and on SIGINT or SIGTERM (then
    `Interrupted` is raised). `state` is where to go on from. On the CPU, a resumed run ends in the same bytes.
    `method`, when given, is taken in place of the one that the options name. `team`: the ranks that train this together, each
    called with the same; only rank 0 has a `folder` and a `state`.
    Raises `TrainingError` when the loss explodes, stays far above its start or is not finite; the last checkpoints stay.
    """
    method = method or method_of(options, model)
    schedule = check_run(model, rows, options, held, method)
    team = team or ProcessGroup()
    share = QuantizationRamp()
    losses: list[float] = []
    with (
        trainable_layers(model, lambda name, base, shape: method.layer(name, base, shape, share)) as layers,
        stop_signals() as stopped,
        bounded_cache(),
    ):
        if state is None:
            state = RunState(trained_arrays(layers))
        state = team.lead_state(state)
        start = state.step
        run = _Run(model, rows, options, schedule, layers, share, state, on_event or ignore, team, method)
        looks = _Looks(run, held_part(held))
        saver = _Saver(run, folder)
        while run.unfinished:
            try:
                losses.append(run.step(saver.kept))
                looks.after_step()
                stop = team.any(stopped())
            except TrainingError:
                if team.lost:
                    saver.save()
                raise
            if stop and run.unfinished:
                saver.save()
                team.tell("saved")
                raise Interrupted(state.step, schedule.steps)
            saver.now_and_then()
        run.guard.check_arrays(state, saver.kept)
    best, at = state.latents, state.step
    if state.best is not None:
        best, at = state.best, state.progress.best_step
    return TrainResult(best, losses, schedule.steps, start, at)


def check_run(
    model: nn.Module,
    rows: Sequence[TokenRow],
    options: TrainOptions,
    held: Sequence[TokenRow] = (),
    method: Method | None = None,
) -> Schedule:
    """The schedule of the run that these make; DataError or ConfigError when there can be none."""
    if not rows:
        raise DataError("there are no rows to train on")
    if options.patience is not None and not held:
        raise ConfigError("early stopping needs held-out rows", field="patience", found=options.patience)
    schedule = (method or method_of(options, model)).schedule(options.step_count(len(rows)))
    penalty = options.config.delta_regularization
    if schedule.peak * penalty >= 1:
        raise ConfigError(
            "the penalty would set every delta to zero",
            field="delta_regularization",
            expected=f"less than {1 / schedule.peak:g} at this learning rate",
            found=penalty,
        )
    return schedule


def held_part(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """The held-out rows that are looked at during a run: evenly spaced, at most HELD_ROWS and about HELD_TOKENS tokens."""
    part = [rows[index * len(rows) // HELD_ROWS] for index in range(HELD_ROWS)] if len(rows) > HELD_ROWS else list(rows)
    kept: list[TokenRow] = []
    tokens = 0
    for row in part:
        if kept and tokens + len(row.ids) > HELD_TOKENS:
            continue
        kept.append(row)
        tokens += len(row.ids)
    return kept


class _Run:
    """What the parts of the loop share."""

    def __init__(
        self,
        model: nn.Module,
        rows: list[TokenRow],
        options: TrainOptions,
        schedule: Schedule,
        layers: dict[str, TrainableLayer],
        share: QuantizationRamp,
        state: RunState,
        on_event: OnEvent,
        team: ProcessGroup,
        method: Method,
    ) -> None:
        self._road = method
        self.model, self.options, self.schedule, self.layers, self.share = model, options, schedule, layers, share
        self.state, self.on_event, self.team = state, on_event, team
        self.guard = Guard(options, len(rows), state.progress)
        self.early = EarlyStop(options.patience, state.progress)
        self._rows = rows

    @property
    def unfinished(self) -> bool:
        """Whether there is a step to take."""
        return self.state.step < self.schedule.steps and not self.early.done

    def step(self, kept: int | None) -> float:
        """One step of the state; returns its loss. `kept`: the step of the last checkpoint, for an error to name."""
        began = time.monotonic()
        options, state, step = self.options, self.state, self.state.step
        mx.random.seed(zlib.crc32(f"{options.seed}/{step}".encode()))
        self.share.value = self.schedule.quantized_share(step)
        if self.share.value and (not step or not self.schedule.quantized_share(step - 1)):
            state.latents = self.team.lead_latents(self._road.begin_quantization(state.latents))
            if not self._road.keeps_optimizer_state:
                state.adam = AdamState(step=step)
        put_arrays(self.layers, state.latents)
        picked = batch_rows(self._rows, options.rows_of_step(len(self._rows)), options.seed, step)
        mine = self.team.share(picked)
        found = step_gradients(self.model, mine, options.micro_tokens, bool(options.grad_checkpoint))
        total, tokens, grads = self.team.sum_step(*found, state.latents)
        loss = total / max(tokens, 1)
        norm = global_norm(grads) / max(tokens, 1)
        self.guard.check(step + 1, loss, norm, kept)
        rate = self.schedule.rate(step)
        update(
            state.latents,
            grads,
            state.adam,
            rate=rate,
            grad_scale=min(1.0, CLIP_NORM / (norm + 1e-6)) / max(tokens, 1),
            l2=options.config.delta_regularization,
            l1=options.config.sparsity_penalty,
        )
        self.team.keep_equal(state.latents)
        seconds = time.monotonic() - began
        memory = mx.get_active_memory(), mx.get_peak_memory()
        steps = self.schedule.steps
        self.on_event(StepReport(step + 1, steps, loss, rate, self.share.value, tokens, seconds, *memory))
        return loss


class _Looks:
    """Held-out loss now and then, of the arrays as they would be stored: with lambda 1 if the run quantizes.

    Early stopping looks at those after a step that was trained with lambda 1 itself. Before that the arrays are not
    trained for what is stored, so that the best of them would be a bad profile, and no reason to stop.
    """

    def __init__(self, run: _Run, rows: list[TokenRow]) -> None:
        self._run, self._rows = run, rows
        self._every = run.options.eval_steps(run.schedule.steps) if rows else 0

    def after_step(self) -> None:
        """Look, where it is time; the arrays of the best look are kept where early stopping wants them."""
        run, step = self._run, self._run.state.step
        last = run.early.wanted and step == run.schedule.steps
        if not self._every or not (last or step % self._every == 0):
            return
        began = time.monotonic()
        quantized = run.schedule.ramp is not None
        counts = not quantized or run.schedule.quantized_share(step - 1) == 1.0
        put_arrays(run.layers, run.state.latents)
        run.share.value = 1.0 if quantized else 0.0
        loss = run.team.mean(mean_loss(run.model, run.team.share(self._rows)))
        best = run.early.wanted and counts and run.early.seen(step, loss.nats)
        if best:
            run.state.best = dict(run.state.latents)
        run.on_event(Evaluated(step, loss.nats, loss.agreement, loss.tokens, time.monotonic() - began, counts, best))


class _Saver:
    """Writes checkpoints into `folder` (None: nowhere). kept: the step of the newest one."""

    def __init__(self, run: _Run, folder: Path | None) -> None:
        self._run, self._folder = run, folder
        self._saved_at = time.monotonic()
        self.kept: int | None = run.state.step or None

    def save(self) -> None:
        """Write one; errors pass."""
        state, began = self._run.state, time.monotonic()
        if self._folder is not None:
            self._run.guard.check_arrays(state, self.kept)
            checkpoint.save(self._folder, state)
            self.kept = state.step
            self._run.on_event(Saved(state.step, time.monotonic() - began))
        self._saved_at = time.monotonic()

    def now_and_then(self) -> None:
        """Write one when it is time; sooner at the end, so that a kill while measuring costs less.

        A state whose loss is far above the start's does not replace one that is kept. A disk that refuses does not end
        the run.
        """
        wait = self._run.options.checkpoint_s / (1 if self._run.unfinished else 5)
        if time.monotonic() - self._saved_at < wait or not self._run.guard.calm:
            return
        try:
            self.save()
        except StorageError as error:
            self._saved_at = time.monotonic()
            self._run.on_event(Noted(f"{error}; the run continues"))
