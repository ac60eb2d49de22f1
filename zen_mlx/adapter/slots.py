"""Slots: the parts of many profiles side by side in preallocated arrays, one stack for each layer and form.

Two profiles have the same form at a layer where their operands have the same kinds, shapes and dtypes: so many planes, with
these scales, or factors of these ranks and bits. A row of the batch has a slot in the stack of its profile's form, and -1 in
every other stack and where it has no profile.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..kernels.dispatch import Operand, SignOperand

Parts = tuple[Operand, ...]
Form = Hashable
_KEPT = 16  # batches whose slots are remembered
_SPARE = 32  # a full stack grows by this part of itself: room that nobody uses is memory that nobody has


def form_of(parts: Any) -> Form:
    """What operands must have in common to share a stack: kinds, shapes without the slots, dtypes."""
    if parts is None:
        return None
    if isinstance(parts, mx.array):
        return parts.shape[1:], str(parts.dtype)
    return (type(parts).__name__, *(form_of(each) for each in parts))


def map_arrays(change: Callable[..., mx.array], parts: Any, *others: Any) -> Any:
    """`parts` with change(array, ...) in place of each array; `others` have the same form."""
    if parts is None:
        return None
    if isinstance(parts, mx.array):
        return change(parts, *others)
    changed = [map_arrays(change, *each) for each in zip(parts, *others, strict=True)]
    return type(parts)(*changed) if hasattr(parts, "_fields") else tuple(changed)


def arrays_of(parts: Any) -> list[mx.array]:
    """Every array in `parts`."""
    found: list[mx.array] = []
    map_arrays(lambda array: found.append(array) or array, parts)  # type: ignore[func-returns-value]
    return found


class BatchRows:
    """The batch that the model computes now: which profile each row has, as a handle; -1 is the base.

    only_base: all rows have the base. expert_rows: within a mixture of experts, the batch row of each entry of the
    experts' indices.
    """

    def __init__(self) -> None:
        self.handles = ()
        self.expert_rows: mx.array | None = None
        self._arrays: dict[Hashable, mx.array] = {}

    @property
    def handles(self) -> tuple[int, ...]:
        """One a row."""
        return self._handles

    @handles.setter
    def handles(self, handles: tuple[int, ...]) -> None:
        self._handles = handles
        self.only_base = max(handles, default=-1) < 0

    def array(self, ids: tuple[int, ...], lead: tuple[int, ...]) -> mx.array:
        """i32 `lead`: ids[b] for every entry that belongs to batch row b. lead: [B, ...] or [B * L, ...], row after row."""
        key = ids, lead
        if key not in self._arrays:
            if len(self._arrays) > 256:
                self._arrays.clear()
            each = int(np.prod(lead)) // len(ids)
            self._arrays[key] = mx.array(np.repeat(np.array(ids, np.int32), each).reshape(lead))
        return self._arrays[key]

    def index(self, rows: tuple[int, ...]) -> mx.array:
        """`rows` as i32."""
        return self.array(rows, (len(rows),))


class Stack:
    """The slots of one form: arrays [capacity * experts, ...]; `slot_of` has the slot of each handle.

    An array is written in place, which copies nothing as long as nobody else refers to it: between two steps of the
    batch, when the last one has been evaluated.
    """

    def __init__(self, parts: Parts, most: int, experts: int) -> None:
        self.most = most
        self.experts = experts
        self.capacity = 0
        self.parts: Any = map_arrays(lambda array: mx.zeros((0, *array.shape[1:]), array.dtype), parts)
        self.slot_of: dict[int, int] = {}
        self._free: list[int] = []

    def put(self, handle: int, parts: Parts) -> None:
        """Write `parts` into a free slot. `most` slots are the caller's to keep to."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        first, stop = slot * self.experts, (slot + 1) * self.experts

        def write(stack: mx.array, new: mx.array) -> mx.array:
            stack[first:stop] = new
            return stack

        map_arrays(write, self.parts, parts)
        mx.eval(arrays_of(self.parts))
        self.slot_of[handle] = slot

    def drop(self, handle: int) -> None:
        """Free the handle's slot."""
        self._free.append(self.slot_of.pop(handle))

    def view(self, slot: int) -> Parts:
        """One slot's parts, as an attached profile has them; they refer to the stack's memory."""
        first, stop = slot * self.experts, (slot + 1) * self.experts
        view: Parts = map_arrays(lambda array: array[first:stop], self.parts)
        return view

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in arrays_of(self.parts))

    @property
    def growth(self) -> int:
        """Bytes that one more profile takes: none where a slot is free."""
        return 0 if self._free else self.nbytes // self.capacity * (self._next_capacity - self.capacity)

    @property
    def _next_capacity(self) -> int:
        more = max(1, self.capacity // _SPARE)
        return min(self.capacity + more, max(self.most, self.capacity + 1))

    def _grow(self) -> None:
        capacity = self._next_capacity
        rows = capacity * self.experts

        def grown(old: mx.array) -> mx.array:
            new = mx.zeros((rows, *old.shape[1:]), old.dtype)
            if old.shape[0]:
                new[: old.shape[0]] = old
            return new

        self.parts = map_arrays(grown, self.parts)
        mx.eval(arrays_of(self.parts))
        self._free.extend(range(capacity - 1, self.capacity - 1, -1))
        self.capacity = capacity


class Live(NamedTuple):
    """What one stack adds to a batch: `parts` with each row's slot, or one slot's own parts where `ids` is None.

    rows: of the batch, that are computed; None: all, as the kernels of signs pass over rows without a slot.
    """

    parts: Parts
    ids: tuple[int, ...] | None
    rows: tuple[int, ...] | None = None


class LayerSlots:
    """The stacks of one parameter. experts: of a mixture, whose slots are slot * experts + expert; else 1."""

    def __init__(self, rows: BatchRows, experts: int = 1) -> None:
        self.rows = rows
        self.experts = experts
        self._stacks: dict[Form, Stack] = {}
        self._live: dict[tuple[int, ...], list[Live]] = {}

    def put(self, handle: int, parts: Parts, most: int) -> None:
        """Write `parts` into a slot of their form's stack, which has at most `most`."""
        self._live.clear()
        form = form_of(parts)
        if form not in self._stacks:
            self._stacks[form] = Stack(parts, most, self.experts)
        self._stacks[form].put(handle, parts)

    def growth(self, parts: Parts) -> int:
        """Bytes that `put` would add."""
        stack = self._stacks.get(form_of(parts))
        return sum(array.nbytes for array in arrays_of(parts)) if stack is None else stack.growth

    def drop(self, handle: int) -> None:
        """Free the handle's slot, if it has one; a stack without slots in use goes."""
        self._live.clear()
        for form, stack in list(self._stacks.items()):
            if handle in stack.slot_of:
                stack.drop(handle)
                if not stack.slot_of:
                    del self._stacks[form]

    def live(self) -> Sequence[Live]:
        """What this batch adds at this layer: nothing where no row has a slot."""
        handles = self.rows.handles
        if handles not in self._live:
            if len(self._live) > _KEPT:
                self._live.clear()
            self._live[handles] = [live for stack in self._stacks.values() if (live := _live(stack, handles))]
        return self._live[handles]

    @property
    def nbytes(self) -> int:
        return sum(stack.nbytes for stack in list(self._stacks.values()))


def _live(stack: Stack, handles: tuple[int, ...]) -> Live | None:
    ids = tuple(stack.slot_of.get(handle, -1) for handle in handles)
    rows = tuple(row for row, slot in enumerate(ids) if slot >= 0)
    if not rows:
        return None
    some = (
        len(rows) < len(ids) and stack.experts == 1 and not all(isinstance(each, SignOperand) for each in stack.parts)
    )
    if some:
        ids = tuple(ids[row] for row in rows)
    if len(set(ids)) == 1:
        return Live(stack.view(ids[0]), None, rows if some else None)
    return Live(stack.parts, ids, rows if some else None)
