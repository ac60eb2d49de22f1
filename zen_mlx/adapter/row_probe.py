"""Which layers of a model see the rows of a batch in their order: asked of the model itself, with a batch and its rows alone.

A mixed batch can give each row its own delta only in such layers. Some models call a layer with single tokens, or with tokens
in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np

_ROWS, _TOKENS = 3, 2
_SEEN = "_bitdelta_seen"
_TOLERANCE = 0.02  # of the largest input: bf16 rounds one row and three in different ways


class _Recorder(nn.Module):
    def __call__(self, x: mx.array, *rest: object, **named: object) -> mx.array:
        self.__dict__[_SEEN].append(x)
        y: mx.array = super().__call__(x, *rest, **named)
        return y


@contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[None]:
    classes = [type(layer) for layer in layers]
    try:
        for layer in layers:
            kind = type(layer)
            layer.__class__ = type(f"Recorded{kind.__name__}", (_Recorder, kind), {})
            object.__setattr__(layer, _SEEN, [])
        yield
    finally:
        for layer, kind in zip(layers, classes, strict=True):
            layer.__class__ = kind
            layer.__dict__.pop(_SEEN, None)


def _inputs(model: nn.Module, layers: Sequence[nn.Module], ids: mx.array) -> list[list[mx.array]]:
    """What each layer is called with for the tokens `ids` [B, L]."""
    with _recorded(layers):
        mx.eval(model(ids))
        return [list(layer.__dict__[_SEEN]) for layer in layers]


def layers_by_row(model: nn.Module, layers: Sequence[nn.Module], words: int) -> set[int]:
    """The ids of those `layers` that are called once with x [B, ...] or [B * L, ...], row after row. words: to draw from."""
    ids = mx.array(np.random.default_rng(0).integers(0, words, (_ROWS, _TOKENS)))
    together = _inputs(model, layers, ids)
    alone = [_inputs(model, layers, ids[row : row + 1]) for row in range(_ROWS)]
    return {
        id(layer) for index, layer in enumerate(layers) if _in_order(together[index], [each[index] for each in alone])
    }


def _in_order(together: Sequence[mx.array], alone: Sequence[Sequence[mx.array]]) -> bool:
    if len(together) != 1 or any(len(each) != 1 for each in alone):
        return False
    x, rows = together[0], mx.stack([each[0].flatten() for each in alone])
    if x.ndim < 2 or x.shape[0] not in (_ROWS, _ROWS * _TOKENS) or x.size != rows.size:
        return False
    difference = mx.abs(x.reshape(rows.shape).astype(mx.float32) - rows.astype(mx.float32)).max()
    return bool((difference <= _TOLERANCE * mx.abs(rows).max()).item())
