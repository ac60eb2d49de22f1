"""Settings of training and compressing: how a profile comes to be."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ..errors import ConfigError
from .fields import Checked, setting

MethodName = Literal["sign", "factor"]
ScaleName = Literal["tensor", "row", "col", "rowcol", "block"]
METHODS = get_args(MethodName)
SCALES = get_args(ScaleName)
KINDS = ("factor", "sign")
BLOCK_SIZES = (32, 64, 128, 256)
MOST_PLANES = 4
DEFAULT_SCALE = "rowcol"
FACTOR_BITS = 0.33  # bits per weight of a factor run that names none

_max_length = functools.partial(setting, 1024, "Most tokens in a row; longer rows are cut.", least=8)
_seed = functools.partial(setting, 0, "Seed that decides the order of the rows.", least=0)
_bits = functools.partial(setting, None, least=0.02, most=4)
_share = functools.partial(setting, least=0, most=1)
_BITS = "Most bits that the whole file may take per target weight, 0.02 to 4."


@dataclass(frozen=True)
class BitDeltaConfig(Checked):
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

    block_size: int = setting(
        128, "sign: columns that share a scale with --no-per-channel-scale: 32, 64, 128 or 256.", choices=BLOCK_SIZES
    )
    use_per_channel_scale: bool = setting(
        True,
        "sign: store a scale for each row and each column, or for each block of --block-size columns.",
        option="--per-channel-scale/--no-per-channel-scale",
    )
    straight_through: bool = setting(
        True,
        "sign: train in full precision, then take signs and distil scales; or go over to one bit during training.",
        option="--no-straight-through/--straight-through",
    )
    delta_regularization: float = setting(0.01, "L2 penalty: each step shrinks the delta d by X * rate * d.", least=0)
    sparsity_penalty: float = setting(
        0.001,
        "L1 penalty: each step shrinks every entry of d by X * rate * mean|d|. "
        "sign: a row whose scale ends below X times its layer's mean is stored as zero.",
        least=0,
    )
    learning_rate_scale: float = setting(
        0.1,
        "Multiplies the reference rate: 1e-3 for sign (in full precision 5e-4), 1e-2 * sqrt(44 / rank) for factor.",
        above=0,
    )
    warmup_steps: int = setting(
        100, "Steps in which the rate rises from 0 to its peak, at most a tenth of the run.", least=0
    )


@dataclass(frozen=True)
class CompressOptions(Checked):
    """What is kept of each layer, and how long it is distilled.

    bits_per_weight: bound of the whole file. scale, planes: signs only, so many planes everywhere; with bits_per_weight
    and without planes, 1 to 4 a layer by importance. Neither: with bits_per_weight whatever keeps most, else one plane.
    only: `factor` or `sign`, with bits_per_weight the one kind of parts that may be used.
    groups: factors only, ((bits, rank), ..) the same everywhere: ((16, 8),) is what is called a LoRA extraction.
    """

    scale: str | None = setting(None, f"Signs only: what shares a scale. Default: {DEFAULT_SCALE}.", choices=SCALES)
    block: int = setting(128, "Columns that share a scale of the kind `block`.", choices=BLOCK_SIZES)
    planes: int | None = setting(
        None, "Signs only: planes, 1 to 4, about one bit per weight each. Default: 1.", least=1, most=MOST_PLANES
    )
    bits_per_weight: float | None = _bits(_BITS)
    only: str | None = setting(None, "The only kind of parts that may be used.", choices=KINDS)
    groups: tuple[tuple[int, int], ...] | None = None
    steps: int = setting(48, "Most steps of --distill, of 16 rows each.", least=1)
    labels: float = _share(
        0.5, "Weight of the text's own words in --distill, 0 to 1; the rest is what the fine-tune says of them."
    )
    mse: float = _share(0.0, "Weight of squared differences in matching the fine-tune, 0 to 1; the rest is KL.")
    babble: int = setting(32, "Texts that the fine-tune writes itself and that --distill uses beside yours.", least=0)
    max_length: int = _max_length()
    seed: int = _seed()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of parts may be used."""
        if self.only is not None:
            return (self.only,)
        return KINDS if self.bits_per_weight and self.scale is None and self.planes is None else ("sign",)

    @property
    def scale_and_block(self) -> tuple[str, int | None]:
        """The kind of scale of a sign plane."""
        scale = self.scale or DEFAULT_SCALE
        return scale, self.block if scale == "block" else None


@dataclass(frozen=True)
class TrainOptions(Checked):
    """steps, when given, replaces epochs; a step takes batch_size * accumulate rows of at most max_length tokens.

    method None: `factor` for bases of 4B parameters and more (`train.methods.with_method`).
    distill_steps: at most as many as the run had; 0: the closed form.
    checkpoint_s: it changes nothing that is computed.
    """

    epochs: float = setting(2.0, "Passes over the data.", above=0)
    steps: int | None = setting(None, "Number of steps, in place of --epochs.", least=1)
    batch_size: int = setting(16, "Rows in a batch.", least=1)
    accumulate: int = setting(1, "Batches in a step.", least=1)
    max_length: int = _max_length()
    seed: int = _seed()
    method: str | None = setting(
        None,
        "sign: one bit per weight, trained straight-through; factor: low rank, a file of any size. "
        "Default: sign, or factor for bases of 4B parameters and more.",
        choices=METHODS,
    )
    bits_per_weight: float | None = _bits(f"{_BITS} Default for factor: {FACTOR_BITS}.")
    factor_scales: bool = setting(
        False, "factor: also train a positive scale of each row and column, in place of some ranks."
    )
    config: BitDeltaConfig = dataclasses.field(default_factory=BitDeltaConfig)
    eval_every: int | None = setting(
        None,
        "Measure the held-out loss every N steps; 0: never. Default: ten times a run, at most every 10 steps.",
        least=0,
    )
    patience: int | None = setting(
        None,
        "Stop after N measurements without a new best held-out loss, and keep the best state. Default: run to the end.",
        least=1,
    )
    distill_steps: int = setting(
        24, "Most steps that distil the scales after a run with --no-straight-through; 0: none.", least=0
    )
    checkpoint_s: float = setting(
        300.0, "Seconds between checkpoints; 0: one after every step.", least=0, option="--checkpoint-every"
    )
    micro_tokens: int = setting(
        1024, "Padded tokens in one forward and backward pass; a step sums the gradients of several.", least=1
    )
    grad_checkpoint: bool | None = setting(
        None,
        "Compute activations again for the backward pass: less memory, a third slower, the same profile. "
        "Default: only if the run does not fit in memory without it.",
        option="--grad-checkpoint/--no-grad-checkpoint",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is not None and self.eval_every == 0:
            raise ConfigError(
                "patience counts evaluations, and there are none", field="eval_every", expected="at least 1", found=0
            )
        if self.factor_scales and self.method == "sign":
            raise ConfigError("signs have scales anyway", field="factor_scales", expected="method factor", found="sign")

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
