"""[y_1, ..] = launch(x, ..): from a model's axes to the two axes of a kernel, and back."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .choice import choose
from .operands import Launch, SignOperand


def run(
    launch: Launch | None,
    x: mx.array,
    signs: Sequence[SignOperand],
    y_bases: Sequence[mx.array | None],
    slots: mx.array | None = None,
) -> list[mx.array]:
    """`launch` (None: the chosen one) for x [..., K], slots [...], y_bases [..., N] or None -> y [..., N] a plane."""
    lead, k = x.shape[:-1], x.shape[-1]
    if x.size == 0 or any(sign.packed.size == 0 for sign in signs):
        empty = [mx.zeros((*lead, sign.packed.shape[1]), dtype=x.dtype) for sign in signs]
        return [e if y is None else y for e, y in zip(empty, y_bases, strict=True)]
    flat = None if slots is None else slots.reshape(-1).astype(mx.int32)
    bases = [None if y is None else y.reshape(-1, y.shape[-1]) for y in y_bases]
    rows = x.reshape(-1, k)
    chosen = choose(rows, signs, bases, flat) if launch is None else launch
    ys = chosen(rows, signs, bases, flat)
    return [y.reshape(*lead, y.shape[-1]) for y in ys]
