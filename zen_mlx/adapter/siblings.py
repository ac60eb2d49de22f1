"""[y_1, y_2, ..] = [f_1(x), f_2(x), ..]: layers that a model calls in turn with one x share one launch.

Attention projects one x to queries, keys and values, a gated MLP to gate and up. The first of them to be called
computes all, and each of the others, called with that very x, takes its own result. Nothing is assumed: a layer that
is called with another x computes alone, and siblings whose results were not fetched stop sharing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn

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
