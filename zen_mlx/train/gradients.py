"""The gradient of one step, and gradient checkpointing, which computes it in less memory.

The gradient is the sum over the step's rows, however they are split. It is summed here only: over micro-batches, and over
whoever else computes a part of the step. Checkpointed, y = layer(x) keeps x and nothing else: the layer's activations are
dropped after its forward pass and computed again for its backward pass, for the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config import TrainOptions
from ..data.batches import pack_by_tokens
from ..data.loss import batch_arrays, nats_at_labels
from ..data.tokens import TokenRow
from .trainable import array_name


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


def step_gradients(
    model: nn.Module, rows: list[TokenRow], micro_tokens: int = TrainOptions.micro_tokens, grad_checkpoint: bool = False
) -> tuple[float, int, dict[str, mx.array]]:
    """(sum of nats, supervised tokens, gradient of the sum by `array_name`) of one step's rows.

    A forward and backward takes at most `micro_tokens` padded tokens, or one row. `grad_checkpoint`: see `checkpointed`.
    """
    total, tokens = 0.0, 0
    grads: dict[str, mx.array] = {}
    with nats_at_labels(model) as loss_of, checkpointed(model) if grad_checkpoint else contextlib.nullcontext():
        grad_of = nn.value_and_grad(model, loss_of)
        for batch in pack_by_tokens(rows, micro_tokens):
            loss, tree = grad_of(*batch_arrays(batch))
            flat = {}
            for path, value in dict(tree_flatten(tree)).items():
                layer, _, key = path.rpartition(".")
                flat[array_name(f"{layer}.weight", key)] = value
            for name, value in flat.items():
                grads[name] = grads[name] + value if name in grads else value
            del tree, flat
            mx.eval(loss, grads)
            total += loss.item()
            tokens += batch.targets
    return total, tokens, grads
