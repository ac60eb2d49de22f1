"""Settings with their defaults and bounds: training (whitepaper, Appendix A), compressing, sampling; the user's config file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import ConfigError
from .paths import config_path

BLOCK_SIZES = (32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class BitDeltaConfig:
    """How a profile is trained. Field names and defaults are the whitepaper's Appendix A.

    block_size: columns that share a scale when `use_per_channel_scale` is false: 32, 64, 128 or 256.
    use_per_channel_scale: true: scale[n, k] = row[n] * col[k]; false: one scale per block of `block_size` columns.
    straight_through: true: the progressive schedule, pure 1-bit at the end; false: full precision, signs at the end.
    delta_regularization: L2, decoupled: d <- d - rate * L2 * d after each step.
    sparsity_penalty: L1, decoupled: d <- d - rate * L1 * mean|d| * sign(d); a row whose scale ends below L1 times its
        layer's mean scale is stored with scale 0.
    learning_rate_scale: multiplies the method's reference rate (sign: 1e-3, in full precision 5e-4; factor of rank r:
        1e-2 * sqrt(44 / r)).
    warmup_steps: steps of linear rate warm-up, at most a tenth of the run.
    """

    block_size: int = 128
    use_per_channel_scale: bool = True
    straight_through: bool = True
    delta_regularization: float = 0.01
    sparsity_penalty: float = 0.001
    learning_rate_scale: float = 0.1
    warmup_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("use_per_channel_scale", "straight_through"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"bad {name}", field=name, expected="true or false", found=getattr(self, name))
        if type(self.block_size) is not int or self.block_size not in BLOCK_SIZES:
            raise ConfigError("bad block size", field="block_size", expected=BLOCK_SIZES, found=self.block_size)
        if type(self.warmup_steps) is not int or self.warmup_steps < 0:
            raise ConfigError(
                "bad warmup_steps", field="warmup_steps", expected="a whole number >= 0", found=self.warmup_steps
            )
        for name in ("delta_regularization", "sparsity_penalty", "learning_rate_scale"):
            value = getattr(self, name)
            number = type(value) in (int, float) and math.isfinite(value)
            positive = name == "learning_rate_scale"
            if not number or value < 0 or (positive and value == 0):
                raise ConfigError(
                    f"bad {name}", field=name, expected=f"a number {'>' if positive else '>='} 0", found=value
                )


def user_config() -> dict[str, Any]:
    """`ZEN_HOME/config.toml` as a dict, {} when absent."""
    path = config_path()
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration file is not valid TOML", path=path, found=str(error)) from error


@dataclass(frozen=True)
class CompressOptions:
    """What is kept of each layer, and how long it is distilled.

    bits_per_weight: bound of the whole file. scale, planes: signs only, so many planes everywhere; with bits_per_weight
    and without planes, 1 to 4 a layer by importance. Neither: with bits_per_weight whatever keeps most, else one plane.
    only: `factor` or `sign`, with bits_per_weight the one kind of parts that may be used.
    groups: factors only, ((bits, rank), ..) the same everywhere: ((16, 8),) is what is called a LoRA extraction.
    steps: of 16 rows each. labels: weight of the text's own tokens beside what the fine-tune says about them. mse: share of
    squared differences of log-probabilities in the latter, the rest is KL. babble: rows that the fine-tune writes itself,
    beside the user's text. max_length: in tokens.
    """

    scale: str | None = None
    block: int = 128
    planes: int | None = None
    bits_per_weight: float | None = None
    only: str | None = None
    groups: tuple[tuple[int, int], ...] | None = None
    steps: int = 48
    labels: float = 0.5
    mse: float = 0.0
    babble: int = 32
    max_length: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        bits = self.bits_per_weight
        if bits is not None and not 0.02 <= bits <= 4:
            raise ConfigError("bad bits per weight", field="bits_per_weight", expected="0.02 to 4", found=bits)
        if self.only not in (None, *KINDS):
            raise ConfigError("unknown kind of parts", field="only", expected=", ".join(KINDS), found=self.only)
        if self.planes is not None and not 1 <= self.planes <= MOST_PLANES:
            raise ConfigError("bad planes", field="planes", expected=f"1 to {MOST_PLANES}", found=self.planes)
        for name in ("labels", "mse"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"bad weight of {name}", field=name, expected="0 to 1", found=getattr(self, name))
        for name, least in (("steps", 1), ("babble", 0), ("max_length", 8), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"bad {name}", field=name, expected=f"at least {least}", found=getattr(self, name))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of parts may be used."""
        if self.only is not None:
            return (self.only,)
        return KINDS if self.bits_per_weight and self.scale is None and self.planes is None else ("sign",)

    @property
    def scale_and_block(self) -> tuple[str, int | None]:
        """The kind of scale of a sign plane."""
        scale = self.scale or "rowcol"
        return scale, self.block if scale == "block" else None


MOST_PLANES = 4
KINDS = ("factor", "sign")


_MAX_SEED = 2**32


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy; top_p 1 keeps every token; seed None draws one for each answer."""

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        finite = math.isfinite(self.temperature) and 0 <= self.temperature <= 10
        _check("temperature", self.temperature, finite, "a number from 0 to 10")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0, at most 1")
        if self.seed is not None:
            _check("seed", self.seed, 0 <= self.seed < _MAX_SEED, f"a whole number from 0 to {_MAX_SEED - 1}")


def _check(field: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"bad {field}", field=field, expected=expected, found=value)


MICRO_TOKENS = 1024  # padded tokens of one forward and backward


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
