"""y = W x + b + sum over parts of part(x): mlx-lm's linear layers with a delta beside the base weight.

A layer takes a delta by changing its class, not its identity: names, shapes, `bits`, `weight.dtype`, `isinstance`
checks and every reference that a model holds to the layer go on working, and changing the class back restores it
exactly. The base arrays stay where they were. The parts live under `_delta` as a tuple: not a parameter (never saved,
counted, trained or quantised), but part of the layer's state, so that a function compiled with `inputs=model.state`
follows a switch without being traced again.

Siblings share one launch: attention projects one x to queries, keys and values, a gated MLP to gate and up. The first of
them to be called computes all, and each of the others, called with that very x, takes its own result. Nothing is
assumed: a layer that is called with another x computes alone, and siblings whose results were not fetched stop sharing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..errors import TargetError
from ..kernels.dispatch import Operand, add_parts, add_parts_together

# Projections of one x, by the names that mlx-lm's models give them.
FAMILIES = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Siblings:
    """Layers of one module that are called with the same x."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = tuple(layers)
        self._inputs: tuple[weakref.ref[mx.array], ...] = ()
        self._waiting: dict[int, mx.array] = {}
        self._apart = False

    def forget(self) -> None:
        """Drop what was computed ahead: the layers changed."""
        self._waiting.clear()

    def __call__(
        self, layer: nn.Module, inputs: tuple[mx.array, ...], together: Callable[..., Sequence[mx.array]]
    ) -> mx.array | None:
        """`layer`'s own of the results of `together(layers)`, which is computed once per `inputs`; None: compute alone."""
        same = len(self._inputs) == len(inputs) and all(
            known() is given for known, given in zip(self._inputs, inputs, strict=True)
        )
        if same and id(layer) in self._waiting:
            return self._waiting.pop(id(layer))
        if self._waiting:
            self._apart = True
            self._waiting.clear()
        if self._apart:
            return None
        ys = together(self.layers)
        self._inputs = tuple(weakref.ref(array) for array in inputs)
        self._waiting = {id(sibling): y for sibling, y in zip(self.layers, ys, strict=True)}
        return self._waiting.pop(id(layer))


def families(model: nn.Module, layers: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """The groups of `layers` that some module of `model` calls with one x."""
    wanted = {id(layer) for layer in layers}
    for _, module in model.named_modules():
        for names in FAMILIES:
            members = [layer for name in names if id(layer := module.get(name)) in wanted]
            if len(members) > 1:
                yield members


DELTA = "_delta"
SLOTS = "_bitdelta_slots"  # of a layer that serves many profiles: see `slot_layers`
_SIBLINGS = "_bitdelta_siblings"
LINEAR = (nn.Linear, nn.QuantizedLinear)
SWITCH = (SwitchLinear, QuantizedSwitchLinear)


class BitDeltaLinear(nn.Module):
    """y = base(x) + sum over parts of part(x), in front of nn.Linear or nn.QuantizedLinear; parts have one slot."""

    def __call__(self, x: mx.array) -> mx.array:
        siblings: Siblings | None = self.__dict__.get(_SIBLINGS)
        if siblings is not None:

            def together(layers: Sequence[nn.Module]) -> list[mx.array]:
                return add_parts_together(x, [layer[DELTA] for layer in layers], [_base(layer)(x) for layer in layers])

            y = siblings(self, (x,), together)
            if y is not None:
                return y
        y = super().__call__(x)
        return add_parts(x, self[DELTA], y) if self[DELTA] else y


class BitDeltaSwitchLinear(nn.Module):
    """y = base(x, indices) + part[indices](x), in front of mlx-lm's SwitchLinear; slot = expert.

    x [..., P, K] and indices [...] broadcast against each other as in `mx.gather_mm`; sorted rows bring their sorted
    indices.
    """

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        siblings: Siblings | None = self.__dict__.get(_SIBLINGS)
        if siblings is not None:

            def together(layers: Sequence[nn.Module]) -> list[mx.array]:
                ys = [_base(layer)(x, indices, sorted_indices=sorted_indices) for layer in layers]
                rows, slots = _expert_rows(x, indices, ys[0])
                return add_parts_together(rows, [layer[DELTA] for layer in layers], ys, slots)

            y = siblings(self, (x, indices), together)
            if y is not None:
                return y
        y = super().__call__(x, indices, sorted_indices=sorted_indices)
        if not self[DELTA]:
            return y
        rows, slots = _expert_rows(x, indices, y)
        return add_parts(rows, self[DELTA], y, slots)


def _base(layer: nn.Module) -> Callable[..., mx.array]:
    """The layer's call without its delta."""
    above: Any = super(_mixin(type(layer)), layer)
    return above.__call__


def _expert_rows(x: mx.array, indices: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
    """One row of x and one slot id for each row of y."""
    lead = y.shape[:-1]
    return mx.broadcast_to(x, (*lead, x.shape[-1])), mx.broadcast_to(indices[..., None], lead)


def _refuse_quantizing(self: nn.Module, *args: object, **kwargs: object) -> nn.Module:
    raise TargetError("quantizing a layer would lose its delta", hint="detach the profile first")


def _mixin(base: type[nn.Module]) -> type[nn.Module]:
    return BitDeltaSwitchLinear if issubclass(base, SWITCH) else BitDeltaLinear


@cache
def delta_class(base: type[nn.Module]) -> type[nn.Module]:
    """The class of a `base` layer that carries a delta: it, its mixin and `base` lead the method resolution order."""
    mixin = _mixin(base)
    members = {"to_quantized": _refuse_quantizing} if hasattr(base, "to_quantized") else {}
    return type(f"BitDelta{base.__name__}", (mixin, base), {"__module__": __name__, **members})


def base_class(layer: nn.Module) -> type[nn.Module]:
    """The layer's own class, with or without a delta on it."""
    return type(layer).__mro__[2] if DELTA in layer or SLOTS in layer.__dict__ else type(layer)


def set_delta(layer: nn.Module, parts: tuple[Operand, ...]) -> None:
    """Let `layer` compute base + parts; an empty tuple is the base alone. Nothing is computed or copied."""
    if DELTA not in layer:
        kind: Any = type(layer)
        layer.__class__ = delta_class(kind)
    layer[DELTA] = parts
    siblings: Siblings | None = layer.__dict__.get(_SIBLINGS)
    if siblings is not None:
        siblings.forget()


def remove_delta(layer: nn.Module) -> None:
    """Give `layer` its own class back."""
    if DELTA in layer:
        layer.__class__ = base_class(layer)
        del layer[DELTA]
        layer.__dict__.pop(_SIBLINGS, None)


def join_siblings(model: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Let those of `layers` share launches that `model` calls with one x: q, k and v; gate and up."""
    for members in families(model, layers):
        if len({base_class(layer) in SWITCH for layer in members}) == 1:
            siblings = Siblings(members)
            for layer in members:
                object.__setattr__(layer, _SIBLINGS, siblings)
