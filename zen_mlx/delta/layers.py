"""y = W x + b + sum over parts of part(x): mlx-lm's linear layers with a delta beside the base weight.

A layer takes a delta by changing its class, not its identity: names, shapes, `bits`, `weight.dtype`, `isinstance`
checks and every reference that a model holds to the layer go on working, and changing the class back restores it
exactly. The base arrays stay where they were. The parts live under `_delta` as a tuple: not a parameter (never saved,
counted, trained or quantised), but part of the layer's state, so that a function compiled with `inputs=model.state`
follows a switch without being traced again.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..errors import TargetError
from ..kernels.dispatch import Part, add_parts

DELTA = "_delta"
LINEAR = (nn.Linear, nn.QuantizedLinear)
SWITCH = (SwitchLinear, QuantizedSwitchLinear)


class BitDeltaLinear(nn.Module):
    """y = base(x) + sum over parts of part(x), in front of nn.Linear or nn.QuantizedLinear; parts have one slot."""

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = super().__call__(x)
        return add_parts(x, self[DELTA], y) if self[DELTA] else y


class BitDeltaSwitchLinear(nn.Module):
    """y = base(x, indices) + part[indices](x), in front of mlx-lm's SwitchLinear; slot = expert.

    x [..., P, K] and indices [...] broadcast against each other as in `mx.gather_mm`; sorted rows bring their sorted
    indices.
    """

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y: mx.array = super().__call__(x, indices, sorted_indices=sorted_indices)
        if not self[DELTA]:
            return y
        rows = mx.broadcast_to(x, (*y.shape[:-1], x.shape[-1]))
        slots = mx.broadcast_to(indices[..., None], y.shape[:-1])
        return add_parts(rows, self[DELTA], y, slots)


def _refuse_quantizing(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    raise TargetError(
        "a layer with a delta cannot be quantized: the delta would be lost", hint="detach the profile first"
    )


@cache
def delta_class(base: type[nn.Module]) -> type[nn.Module]:
    """The class of a `base` layer that carries a delta: it, its mixin and `base` lead the method resolution order."""
    mixin = BitDeltaSwitchLinear if issubclass(base, SWITCH) else BitDeltaLinear
    members = {"to_quantized": _refuse_quantizing} if hasattr(base, "to_quantized") else {}
    return type(f"BitDelta{base.__name__}", (mixin, base), {"__module__": __name__, **members})


def base_class(layer: nn.Module) -> type[nn.Module]:
    """The layer's own class, with or without a delta on it."""
    return type(layer).__mro__[2] if DELTA in layer else type(layer)


def set_delta(layer: nn.Module, parts: tuple[Part, ...]) -> None:
    """Let `layer` compute base + parts; an empty tuple is the base alone. Nothing is computed or copied."""
    if DELTA not in layer:
        kind: Any = type(layer)
        layer.__class__ = delta_class(kind)
    layer[DELTA] = parts


def remove_delta(layer: nn.Module) -> None:
    """Give `layer` its own class back."""
    if DELTA in layer:
        layer.__class__ = base_class(layer)
        del layer[DELTA]
