"""What a run is asked to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import mlx.nn as nn

from ..config import BitDeltaConfig
from ..delta.targets import model_count, targets
from ..errors import ConfigError
from .gradients import MICRO_TOKENS
from .road import Factor, Road, Sign

FACTOR_FROM = 3_500_000_000  # what is called a 4B model
METHODS = ("sign", "factor")


@dataclass(frozen=True)
class TrainOptions:
    """steps, when given, replaces epochs; a step takes batch_size * accumulate rows of at most max_length tokens.

    method: `sign` or `factor`; None: `factor` for bases of 4B parameters and more (`settled`).
    bits_per_weight: what the whole file may take; for `factor` by default 0.33. factor_scales: `factor` trains a positive scale
    of every row and column too (u and v), in ranks' place where bits are bounded.
    eval_every: steps between two looks at the held-out loss (None: about ten a run, but not more often than every tenth step;
    0: none). patience: looks without a new best before the run stops; the best state is then what is stored (None: the last).
    distill_steps: after a full-precision run of signs (`config.straight_through` off), steps of `refine`, at most as many as
    the run had; 0: the closed form.
    checkpoint_s: seconds between checkpoints; it changes nothing that is computed.
    micro_tokens: padded tokens of one forward and backward; the gradients of a step's are summed. grad_checkpoint: make
    activations anew for the backward pass (`recompute`), for the same numbers; None: only where memory wants it.
    """

    epochs: float = 2.0
    steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    max_length: int = 1024
    seed: int = 0
    method: str | None = None
    bits_per_weight: float | None = None
    factor_scales: bool = False
    config: BitDeltaConfig = field(default_factory=BitDeltaConfig)
    eval_every: int | None = None
    patience: int | None = None
    distill_steps: int = 24
    checkpoint_s: float = 300.0
    micro_tokens: int = MICRO_TOKENS
    grad_checkpoint: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("accumulate", 1), ("max_length", 8), ("seed", 0), ("micro_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"bad {name}", field=name, expected=f"at least {least}", found=getattr(self, name))
        if self.steps is not None and self.steps < 1:
            raise ConfigError("bad steps", field="steps", expected="at least 1", found=self.steps)
        for name, least in (("eval_every", 0), ("patience", 1), ("distill_steps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"bad {name}", field=name, expected=f"at least {least}", found=value)
        if self.patience is not None and self.eval_every == 0:
            raise ConfigError(
                "patience counts evaluations, and there are none", field="eval_every", expected="at least 1", found=0
            )
        if not (math.isfinite(self.checkpoint_s) and self.checkpoint_s >= 0):
            raise ConfigError(
                "bad time between checkpoints", field="checkpoint_s", expected="a number >= 0", found=self.checkpoint_s
            )
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise ConfigError("bad epochs", field="epochs", expected="a number > 0", found=self.epochs)
        if self.method is not None and self.method not in METHODS:
            raise ConfigError("unknown method", field="method", expected=", ".join(METHODS), found=self.method)
        if self.factor_scales and self.method == "sign":
            raise ConfigError("signs have scales anyway", field="factor_scales", expected="method factor", found="sign")
        bits = self.bits_per_weight
        if bits is not None and not (math.isfinite(bits) and 0.02 <= bits <= 4):
            raise ConfigError("bad bits per weight", field="bits_per_weight", expected="0.02 to 4", found=bits)

    @property
    def rows_per_step(self) -> int:
        """Rows whose mean gradient makes one step, where there are that many."""
        return self.batch_size * self.accumulate

    def rows_of_step(self, rows: int) -> int:
        """Rows of a step of a set of `rows` rows: a smaller set is a step by itself."""
        return min(self.rows_per_step, max(rows, 1))

    def step_count(self, rows: int) -> int:
        """Steps of the run over `rows` rows."""
        return self.steps or max(1, math.ceil(self.epochs * rows / self.rows_of_step(rows)))

    def refine_steps(self, steps: int) -> int:
        """Steps of `refine` after a run of `steps`."""
        full = self.method != "factor" and not self.config.straight_through
        return min(self.distill_steps, steps) if full else 0

    def eval_steps(self, steps: int) -> int:
        """Steps between two looks at the held-out loss in a run of `steps`; 0: none."""
        return max(10, math.ceil(steps / 10)) if self.eval_every is None else self.eval_every

    def facts(self) -> dict[str, Any]:
        """The settings that the result depends on, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in ("checkpoint_s", "grad_checkpoint")}


def settled(options: TrainOptions, model: nn.Module) -> TrainOptions:
    """`options` with a method: where none was named, the one whose latents fit beside a base of that size."""
    if options.method is not None:
        return options
    factor = options.factor_scales or model_count(model) >= FACTOR_FROM
    return replace(options, method="factor" if factor else "sign")


def road_of(options: TrainOptions, model: nn.Module) -> Road:
    """The road that `options` name, for this model. ConfigError where its bits do not pay for anything."""
    given = (options.config, options.seed, options.bits_per_weight, targets(model))
    if settled(options, model).method == "factor":
        return Factor(*given, scaled=options.factor_scales)
    return Sign(*given)
