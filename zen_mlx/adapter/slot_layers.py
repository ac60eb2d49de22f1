"""y = base(x) + sum over parts of part(x, slot of the row): mlx-lm's layers, with a profile for each row of the batch.

As in `layers`, a layer is given another class and keeps its identity. Linear layers and experts add what their stacks hold;
norms and embeddings, whose arrays an attached profile replaces, take each row's own values. Where no row of the batch has
a slot, the base's result is returned as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from ..kernels.dispatch import add_parts, add_parts_together
from .layers import LINEAR, SLOTS, SWITCH, Siblings, families
from .slot_values import SlotValues, SlotWords
from .slots import BatchRows, LayerSlots, Live

WORDS = "words"
_ROWS = "_bitdelta_rows"
_SIBLINGS = "_bitdelta_slot_siblings"
NORMS = (nn.RMSNorm, nn.LayerNorm)
EXPERTS = (SwitchGLU, SwitchMLP)


def slots_of(layer: nn.Module, key: str = "weight") -> Any:
    """What rows take in place of, or beside, `layer[key]`: `LayerSlots`, `SlotValues` or `SlotWords`; None without."""
    return layer.__dict__[SLOTS].get(key)


def _base(layer: nn.Module) -> Callable[..., mx.array]:
    above: Any = super(type(layer).__mro__[1], layer)  # the mixin
    return above.__call__


def _live(layer: nn.Module) -> Sequence[Live]:
    slots: LayerSlots | None = slots_of(layer)
    return () if slots is None else slots.live()


def _add(
    x: mx.array,
    layers: Sequence[nn.Module],
    ys: Sequence[mx.array],
    ids: Callable[[tuple[int, ...] | None, nn.Module], mx.array | None],
) -> Sequence[mx.array]:
    """ys + what each layer's stacks add; one launch where all layers have one stack and the same slots."""
    live = [_live(layer) for layer in layers]
    if not any(live):
        return ys
    first = live[0][:1]
    if len(layers) > 1 and all(len(each) == 1 and each[0][1:] == first[0][1:] for each in live) and not first[0].rows:
        return add_parts_together(x, [each[0].parts for each in live], ys, ids(first[0].ids, layers[0]))
    sums = []
    for layer, y, each in zip(layers, ys, live, strict=True):
        for parts, slots, rows in each:
            if rows is None:
                y = add_parts(x, parts, y, ids(slots, layer))
        some = [one for one in each if one.rows is not None]
        sums.append(_add_to_rows(x, y, some, layer.__dict__[_ROWS]) if some else y)
    return sums


def _add_to_rows(x: mx.array, y: mx.array, live: Sequence[Live], batch: BatchRows) -> mx.array:
    """y + what stacks add to some rows of the batch: each stack computes its own, then all are put in order again."""
    count = len(batch.handles)
    xs, ys = (each.reshape(count, -1, each.shape[-1]) for each in (x, y))
    length = xs.shape[1]
    order: list[int] = []
    found = []
    for parts, slots, rows in live:
        assert rows is not None
        index = batch.index(rows)
        ids = None if slots is None else batch.array(slots, (len(rows), length))
        order += rows
        found.append(add_parts(xs[index], parts, ys[index], ids))
    if rest := tuple(row for row in range(count) if row not in order):
        order += rest
        found.append(ys[batch.index(rest)])
    back = sorted(range(count), key=order.__getitem__)
    return mx.concatenate(found)[batch.index(tuple(back))].reshape(y.shape)


class SlotLinear(nn.Module):
    """x [B, ..., K] or [B * L, K], rows of one request side by side."""

    def __call__(self, x: mx.array) -> mx.array:
        if self.__dict__[_ROWS].only_base:
            alone: mx.array = super().__call__(x)
            return alone
        siblings: Siblings | None = self.__dict__.get(_SIBLINGS)
        y = None if siblings is None else siblings(self, (x,), lambda layers: self._together(x, layers))
        return self._together(x, [self])[0] if y is None else y

    def _together(self, x: mx.array, layers: Sequence[nn.Module]) -> Sequence[mx.array]:
        rows: BatchRows = self.__dict__[_ROWS]

        def ids(slots: tuple[int, ...] | None, _: nn.Module) -> mx.array | None:
            return None if slots is None else rows.array(slots, x.shape[:-1])

        ys = _add(x, layers, [_base(layer)(x) for layer in layers], ids)
        return [_with_values(layer, x, y) for layer, y in zip(layers, ys, strict=True)]


def _with_values(layer: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    """y with each row's own bias in place of the base's, and the logits of its own words."""
    values: SlotValues | None = slots_of(layer, "bias")
    bias = None if values is None else values.of_rows(y)
    y = y if bias is None else y + (bias - layer["bias"])
    words: SlotWords | None = slots_of(layer, WORDS)
    return y if words is None else words.logits(x, y)


class SlotSwitchLinear(nn.Module):
    """slot = profile's slot * experts + expert; x and indices as in `layers.BitDeltaSwitchLinear`."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y = _base(self)(x, indices, sorted_indices=sorted_indices)
        rows: BatchRows = self.__dict__[_ROWS]
        if rows.only_base:
            return y
        lead = y.shape[:-1]

        def ids(slots: tuple[int, ...] | None, layer: nn.Module) -> mx.array:
            chosen = indices
            if slots is not None:
                own = mx.array(slots)[rows.expert_rows]
                chosen = mx.where(own < 0, -1, own * slots_of(layer).experts + indices)
            return mx.broadcast_to(chosen[..., None], lead)

        return _add(mx.broadcast_to(x, (*lead, x.shape[-1])), [self], [y], ids)[0]


class SlotExperts(nn.Module):
    """Experts that know which batch row each of their rows belongs to, sorted by expert or not."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        rows: BatchRows = self.__dict__[_ROWS]
        if rows.only_base:
            return _base(self)(x, indices)
        with _expert_rows(rows, indices):
            return _base(self)(x, indices)


@contextmanager
def _expert_rows(rows: BatchRows, indices: mx.array) -> Iterator[None]:
    each = indices.size // max(1, len(rows.handles))
    if indices.size >= 64:  # from here on mlx-lm sorts them
        rows.expert_rows = mx.argsort(indices.flatten()) // each
    else:
        rows.expert_rows = (mx.arange(indices.size) // each).reshape(indices.shape)
    try:
        yield
    finally:
        rows.expert_rows = None


class SlotNorm(nn.Module):
    """nn.RMSNorm or nn.LayerNorm whose weight and bias are each row's own."""

    def __call__(self, x: mx.array) -> mx.array:
        if self.__dict__[_ROWS].only_base:
            return _base(self)(x)
        found = {key: each.of_rows(x) for key, each in self.__dict__[SLOTS].items()}
        if all(value is None for value in found.values()):
            return _base(self)(x)
        weight, bias = (found[k] if found.get(k) is not None else self.get(k) for k in ("weight", "bias"))
        if isinstance(self, nn.RMSNorm):
            return _scaled(mx.fast.rms_norm(x, None, self.eps), weight, None)
        return _scaled(mx.fast.layer_norm(x, None, None, self.eps), weight, bias)


def _scaled(y: mx.array, weight: mx.array | None, bias: mx.array | None) -> mx.array:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


class SlotEmbedding(nn.Module):
    """An embedding, and the head that is tied to it, with rows of each profile's own: changed and added words."""

    def __call__(self, x: mx.array) -> mx.array:
        words: SlotWords = slots_of(self, WORDS)
        if self.__dict__[_ROWS].only_base:
            return _base(self)(x)
        return words.looked_up(x, _base(self)(words.known(x)))

    def as_linear(self, x: mx.array) -> mx.array:
        above: Any = super(type(self).__mro__[1], self)
        words: SlotWords = slots_of(self, WORDS)
        y: mx.array = above.as_linear(x)
        return words.logits(x, y)


def _mixin(base: type[nn.Module]) -> type[nn.Module]:
    kinds = {
        LINEAR: SlotLinear,
        SWITCH: SlotSwitchLinear,
        NORMS: SlotNorm,
        EXPERTS: SlotExperts,
        (nn.Embedding, nn.QuantizedEmbedding): SlotEmbedding,
    }
    return next(mixin for kind, mixin in kinds.items() if base in kind)


@cache
def slot_class(base: type[nn.Module]) -> type[nn.Module]:
    """The class of a `base` layer with slots."""
    return type(f"Slot{base.__name__}", (_mixin(base), base), {"__module__": __name__})


def set_slots(layer: nn.Module, rows: BatchRows, key: str | None = None, slots: Any = None) -> None:
    """Let `layer` read its rows' slots; key: the array that `slots` is of."""
    if SLOTS not in layer.__dict__:
        kind: Any = type(layer)
        layer.__class__ = slot_class(kind)
        object.__setattr__(layer, SLOTS, {})
        object.__setattr__(layer, _ROWS, rows)
    if key is not None:
        layer.__dict__[SLOTS][key] = slots


def remove_slots(layer: nn.Module) -> None:
    """Give `layer` its own class back."""
    if layer.__dict__.pop(SLOTS, None) is not None:
        layer.__class__ = type(layer).__mro__[2]
        layer.__dict__.pop(_ROWS)
        layer.__dict__.pop(_SIBLINGS, None)


def join_slot_siblings(model: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Let linear layers that are called with one x share a launch."""
    for members in families(model, layers):
        if all(isinstance(layer, SlotLinear) for layer in members):
            siblings = Siblings(members)
            for layer in members:
                object.__setattr__(layer, _SIBLINGS, siblings)
