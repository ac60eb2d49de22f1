"""The training methods, sign and factor: the trained layer, its learning rate and ramp, and its stored form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from ..adapter.targets import model_count, targets
from ..config import FACTOR_BITS, BitDeltaConfig, TrainOptions
from ..encode.byte_budget import BITS, planes, ranks
from ..format.spec import DeltaTensor
from .factor import encode_factors, factor_layer
from .rank_allocation import allocate_ranks
from .schedule import Schedule
from .sign_ste import encode_latents, latent_layer
from .trainable import QuantizationRamp, TrainableLayer

Shapes = Mapping[str, tuple[int, ...]]
HEADROOM = 1.5
REFERENCE_RANK = 44  # the start's, of the embedded base at 0.33 bits per weight


class Method(Protocol):
    """One way of training; `bits_per_weight` bounds the whole file, None is the method's default.

    keeps_optimizer_state: whether `begin_quantization` leaves the arrays as they are.
    """

    keeps_optimizer_state: bool

    def __init__(self, config: BitDeltaConfig, seed: int, bits_per_weight: float | None, shapes: Shapes) -> None: ...

    def schedule(self, steps: int) -> Schedule:
        """Rate and lambda of a run."""
        ...

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: QuantizationRamp) -> TrainableLayer:
        """The layer that is trained in the place of `base`."""
        ...

    def begin_quantization(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """The arrays to go on with when lambda leaves 0, or at the first step where it never was."""
        ...

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        """The trained arrays as they are stored."""
        ...


class SignMethod:
    """A latent of every weight's size, one bit a plane of it at the end (`sign_ste`); as many planes as fit, at most 4.

    Without a bound, one. Signs take twice the rate of a full fine-tune.
    """

    reference_rate = 1e-3
    full_precision_rate = 5e-4
    keeps_optimizer_state = True

    def __init__(self, config: BitDeltaConfig, seed: int, bits_per_weight: float | None, shapes: Shapes) -> None:
        self._config = config
        self._block = None if config.use_per_channel_scale else config.block_size
        self.planes = 1 if bits_per_weight is None else planes(shapes, bits_per_weight, self._block)

    def schedule(self, steps: int) -> Schedule:
        config = self._config
        rate, ramp = self.full_precision_rate, None
        if config.straight_through:
            rate, ramp = self.reference_rate, (0.25, 0.75)
        return Schedule(steps, rate * config.learning_rate_scale, config.warmup_steps, ramp)

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: QuantizationRamp) -> TrainableLayer:
        return latent_layer(base, shape, self._block, share, self.planes)

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        return encode_latents(arrays, self._config, self.planes)

    def begin_quantization(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        return dict(arrays)


class FactorMethod:
    """Factors of low rank, quantized in the loop from a quarter of the run on, then in the bits of `rank_allocation`.

    Until then every layer has the same rank r, HEADROOM times as many columns as 4 bits each would pay for. The rate is
    that of REFERENCE_RANK times sqrt(REFERENCE_RANK / r), as each of fewer columns has to learn more.
    """

    reference_rate = 1e-2
    keeps_optimizer_state = False
    default_bits = FACTOR_BITS

    def __init__(
        self, config: BitDeltaConfig, seed: int, bits_per_weight: float | None, shapes: Shapes, scaled: bool = False
    ) -> None:
        self._config, self._seed, self._shapes, self._scaled = config, seed, shapes, scaled
        self._wanted = self.default_bits if bits_per_weight is None else bits_per_weight
        self._fits = ranks(shapes, self._wanted, scaled)
        self._start = {name: min(int(HEADROOM * rank) + 1, *shapes[name][-2:]) for name, rank in self._fits.items()}

    def schedule(self, steps: int) -> Schedule:
        config = self._config
        rate = self.reference_rate * math.sqrt(REFERENCE_RANK / max(self._start.values()))
        return Schedule(steps, rate * config.learning_rate_scale, config.warmup_steps, (0.25, 0.25))

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: QuantizationRamp) -> TrainableLayer:
        groups = ((BITS, self._start[name]),)
        return factor_layer(name, base, shape, groups, share, self._seed, self._scaled)

    def begin_quantization(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        found = allocate_ranks(arrays, self._shapes, self._wanted, self._scaled)
        if found is not None:
            return found
        fits = {f"{name}/{side}{BITS}": rank for name, rank in self._fits.items() for side in ("left", "right")}
        return {key: value[..., : fits[key], :] if key in fits else value for key, value in arrays.items()}

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        return encode_factors(arrays, self._shapes)


FACTOR_FROM = 3_500_000_000  # what is called a 4B model


def with_method(options: TrainOptions, model: nn.Module) -> TrainOptions:
    """`options` with a method: where none was named, the one whose latents fit beside a base of that size."""
    if options.method is not None:
        return options
    factor = options.factor_scales or model_count(model) >= FACTOR_FROM
    return replace(options, method="factor" if factor else "sign")


def method_of(options: TrainOptions, model: nn.Module) -> Method:
    """The method that `options` name, for this model. ConfigError where its bits do not pay for anything."""
    given = (options.config, options.seed, options.bits_per_weight, targets(model))
    if with_method(options, model).method == "factor":
        return FactorMethod(*given, scaled=options.factor_scales)
    return SignMethod(*given)
