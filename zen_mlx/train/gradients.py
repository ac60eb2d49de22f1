"""The gradient of one step: the sum over its rows, however they are split.

The only place where gradients are summed: over micro-batches here, and over whoever else computes a part of the step.
"""

from __future__ import annotations

import contextlib

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config import TrainOptions
from ..data.batches import pack_by_tokens
from ..data.loss import batch_arrays, nats_at_labels
from ..data.tokens import TokenRow
from .gradient_checkpointing import checkpointed
from .trainable import array_name


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
