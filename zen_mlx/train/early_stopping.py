"""Early stopping, and the guard that ends a run whose numbers are no longer finite.

A run has failed when a loss or a gradient is not a finite number, when a loss exceeds EXPLODED_NATS, or when each of
the last WINDOW losses exceeds its limit,

    first + max(1, first / 4) + 4 / sqrt(rows of a step)      nats; first: the loss of the first step, which is the base's
"""

from __future__ import annotations

import math

import mlx.core as mx

from ..config import TrainOptions
from ..errors import TrainingError
from .checkpoint import RunNumbers, RunState

EXPLODED_NATS = 50.0  # a model that knows nothing loses ln(vocabulary), about 11
WINDOW = 20


class Guard:
    """Looks at every step's loss; `progress` is the run's, and is brought up to date."""

    def __init__(self, options: TrainOptions, rows: int, progress: RunNumbers) -> None:
        self._rate = options.config.learning_rate_scale
        self._rows = options.rows_of_step(rows)
        self._progress = progress

    @property
    def limit(self) -> float:
        """What a loss must not stay above."""
        first = self._progress.first or 0.0
        return first + max(1.0, first / 4) + 4 / math.sqrt(self._rows)

    @property
    def calm(self) -> bool:
        """Whether the last loss is below the limit: only such states replace the ones that are kept."""
        recent = self._progress.recent
        return not recent or recent[-1] <= self.limit

    def check(self, step: int, loss: float, norm: float, kept: int | None) -> None:
        """TrainingError when step `step` (from 1) shows that the run has failed; `kept`: the step of the last checkpoint."""
        progress = self._progress
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._failed(
                f"the {'loss' if not math.isfinite(loss) else 'gradient'} is not a finite number at step {step}", kept
            )
        if loss > EXPLODED_NATS:
            raise self._failed(f"the loss has exploded to {loss:.1f} at step {step}", kept)
        if progress.first is None:
            progress.first = loss
        progress.recent = [*progress.recent, loss][-WINDOW:]
        if len(progress.recent) == WINDOW and min(progress.recent) > self.limit:
            raise self._failed(
                f"the loss rose from {progress.first:.2f} to {loss:.2f} and stayed there for {WINDOW} steps, up to"
                f" step {step}",
                kept,
            )

    def check_arrays(self, state: RunState, kept: int | None) -> None:
        """TrainingError unless every trained array and moment is finite: only such a state may be stored."""
        for group in (state.latents, state.adam.m, state.adam.v):
            for array in group.values():
                if not mx.isfinite(array).all().item():
                    raise self._failed(f"a trained array is not finite after step {state.step}", kept)

    def _failed(self, what: str, kept: int | None) -> TrainingError:
        state = f"the state after step {kept} is kept" if kept else "there was no checkpoint yet"
        return TrainingError(
            f"{what}; {state}",
            field="learning_rate_scale",
            found=self._rate,
            hint=f"start again with a smaller rate: --replace --learning-rate-scale {self._rate / 10:g}",
        )


class EarlyStop:
    """Stops after `patience` evaluations in a row without a new lowest held-out loss; None: never.

    `progress` is the run's, and is brought up to date: a resumed run goes on counting.
    """

    def __init__(self, patience: int | None, progress: RunNumbers) -> None:
        self._patience = patience
        self._progress = progress

    @property
    def wanted(self) -> bool:
        """Whether there is early stopping at all."""
        return self._patience is not None

    @property
    def done(self) -> bool:
        """Whether the run has waited long enough."""
        return self._patience is not None and self._progress.waited >= self._patience

    def seen(self, step: int, loss: float) -> bool:
        """Take note of the held-out loss after `step`; True when it is the lowest so far."""
        progress = self._progress
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.waited = loss, step, 0
            return True
        progress.waited += 1
        return False
