"""What a run is asked to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import mlx.nn as nn

from ..config import BitDeltaConfig
from ..delta.targets import targets
from ..errors import ConfigError
from .road import Factor, Road, Sign

ROADS: dict[str, type[Road]] = {"sign": Sign, "factor": Factor}


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


def road_of(options: TrainOptions, model: nn.Module) -> Road:
    """The road that `options` name, for this model. ConfigError where its bits do not pay for anything."""
    return ROADS[options.method](options.config, options.seed, options.bits_per_weight, targets(model))
