"""Gradient checkpointing: a layer's activations are dropped after its forward pass and computed again for its backward pass.

y = layer(x) keeps x and nothing else; the numbers are the same, for one more forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within the block each of the model's `layers` is checkpointed. Instances change, not their classes: other models stay."""
    layers = list(transformer_layers(model))
    classes = [type(layer) for layer in layers]
    made = {cls: _checkpointed(cls) for cls in set(classes)}
    try:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = made[cls]
        yield
    finally:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = cls


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that mlx-lm's models name `layers`; [] of a model without."""
    found = getattr(model, "layers", None) or []
    return list({id(layer): layer for layer in found if isinstance(layer, nn.Module)}.values())


def _checkpointed(cls: type[nn.Module]) -> type[nn.Module]:
    forward: Any = cls.__call__

    def call(self: nn.Module, *args: object, **kwargs: object) -> mx.array:
        def inner(arrays: dict, *args: object, **kwargs: object) -> mx.array:
            before = self.trainable_parameters()
            self.update(arrays)
            try:
                return forward(self, *args, **kwargs)
            finally:
                self.update(before)  # the gradient's second pass leaves arrays that would keep its whole graph alive

        return mx.checkpoint(inner)(self.trainable_parameters(), *args, **kwargs)

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
