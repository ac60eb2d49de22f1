"""The gradient of one step: that of the sum of its rows' nats, whatever they are cut into.

The only place where gradients are summed: over micro-batches here, and over whoever else computes a part of the step.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..data.batches import pack_by_tokens
from ..data.loss import batch_arrays, logits_at_labels, nats
from ..data.tokens import TokenRow
from .overlay import array_name

MICRO_TOKENS = 1024  # padded tokens of one forward and backward


def step_gradients(model: nn.Module, rows: list[TokenRow]) -> tuple[float, int, dict[str, mx.array]]:
    """(sum of nats, supervised tokens, gradient of the sum by `overlay.array_name`) of one step's rows."""
    total, tokens = 0.0, 0
    grads: dict[str, mx.array] = {}
    with logits_at_labels(model) as forward:
        grad_of = nn.value_and_grad(model, lambda i, p, y, w: nats(forward(i, p), y, w))
        for batch in pack_by_tokens(rows, MICRO_TOKENS):
            loss, tree = grad_of(*batch_arrays(batch))
            flat = {}
            for path, value in tree_flatten(tree):
                layer, _, key = path.rpartition(".")
                flat[array_name(f"{layer}.weight", key)] = value
            for name, value in flat.items():
                grads[name] = grads[name] + value if name in grads else value
            del tree, flat
            mx.eval(loss, grads)
            total += loss.item()
            tokens += batch.targets
    return total, tokens, grads
