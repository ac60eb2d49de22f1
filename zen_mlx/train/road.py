"""The roads to a delta: which layer is trained in a target's place, how its rate and lambda move, what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from ..config import BitDeltaConfig
from ..format.spec import DeltaTensor
from .encode import encode_latents
from .factor import encode_factors, factor_layer
from .overlay import Overlay, Share
from .plan import BITS, planes, ranks
from .schedule import Schedule
from .ste import latent_layer

Shapes = Mapping[str, tuple[int, ...]]


class Road(Protocol):
    """One way of training; `bits_per_weight` bounds the whole file, None is the road's default."""

    def __init__(self, config: BitDeltaConfig, seed: int, bits_per_weight: float | None, shapes: Shapes) -> None: ...

    def schedule(self, steps: int) -> Schedule:
        """Rate and lambda of a run."""
        ...

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: Share) -> Overlay:
        """The layer that is trained in the place of `base`."""
        ...

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        """The trained arrays as they are stored."""
        ...


class Sign:
    """A latent of every weight's size, one bit a plane of it at the end (`ste`); as many planes as fit, at most 4.

    Without a bound, one. The rate's reference is 5e-4, times 0.1.
    """

    reference_rate = 5e-4

    def __init__(self, config: BitDeltaConfig, seed: int, bits_per_weight: float | None, shapes: Shapes) -> None:
        self._config = config
        self._block = None if config.use_per_channel_scale else config.block_size
        self.planes = 1 if bits_per_weight is None else planes(shapes, bits_per_weight, self._block)

    def schedule(self, steps: int) -> Schedule:
        config = self._config
        ramp = (0.25, 0.75) if config.straight_through else None
        return Schedule(steps, self.reference_rate * config.learning_rate_scale, config.warmup_steps, ramp)

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: Share) -> Overlay:
        return latent_layer(base, shape, self._block, share, self.planes)

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        return encode_latents(arrays, self._config, self.planes)


class Factor:
    """Factors of low rank in 4 bits, quantized in the loop from a quarter of the run on (`factor`)."""

    reference_rate = 1e-2
    default_bits = 0.33

    def __init__(
        self, config: BitDeltaConfig, seed: int, bits_per_weight: float | None, shapes: Shapes, scaled: bool = False
    ) -> None:
        self._config, self._seed, self._shapes, self._scaled = config, seed, shapes, scaled
        wanted = self.default_bits if bits_per_weight is None else bits_per_weight
        self.plan = {name: ((BITS, rank),) for name, rank in ranks(shapes, wanted, scaled).items()}

    def schedule(self, steps: int) -> Schedule:
        config = self._config
        return Schedule(steps, self.reference_rate * config.learning_rate_scale, config.warmup_steps, (0.25, 0.25))

    def layer(self, name: str, base: nn.Module, shape: tuple[int, ...], share: Share) -> Overlay:
        return factor_layer(name, base, shape, self.plan[name], share, self._seed, self._scaled)

    def encode(self, arrays: Mapping[str, mx.array]) -> dict[str, DeltaTensor]:
        return encode_factors(arrays, self._shapes, self.plan)
