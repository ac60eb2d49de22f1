"""Input statistics of every target layer, and the weight of its outputs: compression weighs its errors with them.

    C = E[x x^T] over the tokens of a text, [K, K] f32, uncentred             `CalibrationStats`
    g = E ||d nats / d y||^2 / N, over the same tokens                        `importance`

With both, ||(D - D') C^(1/2)||^2 * g estimates to second order what an error of the delta costs the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..adapter.targets import target_layers, targets
from ..data.batches import pack_by_tokens
from ..data.loss import batch_arrays, nats_at_labels
from ..data.tokens import TokenRow
from .trainable import QuantizationRamp, TrainableLayer, trainable_layers

TOKENS = 4096  # of text that are looked at
BATCH_TOKENS = 1024  # of one forward and backward of `importance`
WINDOW_BYTES = 2**30  # C alive at a time
WINDOWS = 4  # at least, where later layers are to see what the delta made of earlier ones


class _Watched(TrainableLayer):
    """base(x), and x^T x added to `sums` where it is wanted."""

    def __init__(self, base: nn.Module, name: str, wanted: Collection[str], sums: dict[str, mx.array]) -> None:
        super().__init__(base, QuantizationRamp())
        self._name, self._wanted, self._sums = name, wanted, sums

    def __call__(self, x: mx.array, *args: mx.array, **kwargs: bool) -> mx.array:
        if self._name in self._wanted:
            flat = x.reshape(-1, x.shape[-1]).astype(mx.float32)
            self._sums[self._name] = self._sums.get(self._name, mx.array(0.0)) + flat.T @ flat
        y: mx.array = self._base[0](x, *args, **kwargs)
        return y


class CalibrationStats:
    """C of one target after another, in the model's own order; a window of layers is measured at a time.

    `model` may get a delta between two windows: what comes in is then what that model makes of the text.
    """

    def __init__(self, model: nn.Module, rows: list[TokenRow], before_window: Callable[[], None] | None = None) -> None:
        self._model, self._rows, self._before = model, bounded(rows), before_window
        self._shapes = targets(model)
        self._order = list(target_layers(model))
        self._found: dict[str, np.ndarray] = {}
        self._done: set[str] = set()

    @property
    def order(self) -> list[str]:
        """The targets in the order in which they should be asked for."""
        return self._order

    def of(self, name: str) -> np.ndarray:
        """C of `name`; asked for once, in order."""
        if name not in self._found:
            if self._before is not None:
                self._before()
            self._measure(self._window(name))
        self._done.add(name)
        return self._found.pop(name)

    def _window(self, first: str) -> list[str]:
        start = self._order.index(first)
        most = len(self._order) if self._before is None else -(-len(self._order) // WINDOWS)
        names: list[str] = []
        size = 0
        for name in self._order[start:]:
            size += 4 * self._shapes[name][-1] ** 2
            if names and (size > WINDOW_BYTES or len(names) >= most):
                break
            names.append(name)
        return names

    def _measure(self, names: list[str]) -> None:
        sums: dict[str, mx.array] = {}
        tokens = 0
        with trainable_layers(self._model, lambda name, base, shape: _Watched(base, name, names, sums)):
            for row in self._rows:
                self._model(mx.array([row.ids]))
                mx.eval(sums)
                tokens += len(row.ids)
        self._found = {name: np.array(sums[name]) / tokens for name in names if name in sums}
        for name in names:
            if name not in self._found:  # a layer that the text does not reach: an expert of another modality
                self._found[name] = np.eye(self._shapes[name][-1], dtype=np.float32)


def importance(model: nn.Module, rows: list[TokenRow]) -> dict[str, float]:
    """g of every target: the mean square of the gradient that reaches an output of the layer, by the nats of a token."""
    squares: dict[str, mx.array] = {}
    found: dict[str, float] = {}
    rows = bounded(rows)
    tokens = sum(len(row.ids) for row in rows)
    with (
        trainable_layers(model, lambda name, base, shape: _Probed(base, name, squares)) as layers,
        nats_at_labels(model) as nats_of,
    ):
        gradient = nn.value_and_grad(model, nats_of)
        for batch in pack_by_tokens(rows, BATCH_TOKENS):
            squares.clear()
            mx.eval(gradient(*batch_arrays(batch)), squares)
            for name, value in squares.items():
                found[name] = found.get(name, 0.0) + float(value.item())  # type: ignore[arg-type]  # real
    return {name: found.get(name, 0.0) / tokens for name in layers}


class _Probed(TrainableLayer):
    """base(x), whose gradient leaves its squares' sum, by its width, in `squares`; a padded position has none."""

    def __init__(self, base: nn.Module, name: str, squares: dict[str, mx.array]) -> None:
        super().__init__(base, QuantizationRamp())
        self.probe = mx.zeros(1)  # so that a gradient is asked of every layer

        @mx.custom_function
        def tap(y: mx.array) -> mx.array:
            return y

        @tap.vjp
        def _(y: mx.array, slope: mx.array, _: mx.array) -> mx.array:
            square = mx.square(slope.astype(mx.float32)).sum() / slope.shape[-1]
            squares[name] = squares[name] + square if name in squares else square
            return slope

        self._tap = tap

    def __call__(self, x: mx.array, *args: mx.array, **kwargs: bool) -> mx.array:
        y: mx.array = self._base[0](x, *args, **kwargs)
        tapped: mx.array = self._tap(y + self.probe.astype(y.dtype))  # type: ignore[assignment]  # MLX says object
        return tapped


def bounded(rows: list[TokenRow]) -> list[TokenRow]:
    """Evenly spaced rows of about TOKENS tokens."""
    total = sum(len(row.ids) for row in rows)
    every = max(1, round(total / TOKENS))
    return rows[::every]
