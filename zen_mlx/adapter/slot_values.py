"""Values that are a profile's own for each row of the batch: norms and biases, and single rows of an embedding or a head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from .resident import ResidentTensor
from .slots import BatchRows


class SlotValues:
    """One vector of the model, [D], as each profile has it: W + delta, in W's dtype."""

    def __init__(self, rows: BatchRows, base: mx.array) -> None:
        self.rows = rows
        self._base = base
        self._values: dict[int, mx.array] = {}
        self._stacked: tuple[tuple[int, ...], mx.array | None] = ((), None)

    def put(self, handle: int, value: mx.array) -> None:
        self._values[handle] = value
        self._stacked = ((), None)

    def drop(self, handle: int) -> None:
        self._values.pop(handle, None)
        self._stacked = ((), None)

    def of_rows(self, x: mx.array) -> mx.array | None:
        """[B, 1, ..., D] for x [B, ..., D]: each row's own values; None where all rows have the base's."""
        handles = self.rows.handles
        if self._stacked[0] != handles:
            own = [self._values.get(handle, self._base) for handle in handles]
            changed = any(handle in self._values for handle in handles)
            self._stacked = handles, mx.stack(own) if changed else None
        values = self._stacked[1]
        if values is None:
            return None
        if x.shape[0] != len(handles):  # [B * L, D]
            return mx.repeat(values, x.shape[0] // len(handles), axis=0)
        return values.reshape(len(handles), *[1] * (x.ndim - 2), values.shape[-1])

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in list(self._values.values()))


@dataclass(frozen=True)
class _Words:
    """Rows of a [V, K] array: values [R, K] for numbers i32 [R]; place i32 [V']: of each word in `values`, or -1."""

    numbers: mx.array
    values: mx.array
    place: mx.array

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        return self.numbers, self.values, self.place


class SlotWords:
    """Rows of an embedding or head [V, K], as each profile has them; V' > V words where it adds some.

    A packed head's rows are differences, which are added to its logits; others are in its dtype and replace them.
    """

    def __init__(self, rows: BatchRows, base: mx.array, words: int, packed: bool) -> None:
        self.rows = rows
        self._base = base
        self._words = words
        self._packed = packed
        self._own: dict[int, _Words] = {}

    def put(self, handle: int, tensor: ResidentTensor) -> None:
        """The rows of `tensor`; words that it adds without saying what they are, are zero."""
        assert tensor.rows is not None
        total, width = tensor.shape
        numbers = np.array(tensor.rows.numbers, dtype=np.int32)
        silent = np.setdiff1d(np.arange(self._words, total, dtype=np.int32), numbers)
        place = np.full(max(total, self._words), -1, np.int32)
        place[np.concatenate([numbers, silent])] = np.arange(len(numbers) + len(silent))
        values = tensor.rows.values.astype(mx.float32)
        if not self._packed:
            known = mx.where((tensor.rows.numbers < self._words)[:, None], self._at(tensor.rows.numbers), 0)
            values = (known + values).astype(self._base.dtype)
        values = mx.concatenate([values, mx.zeros((len(silent), width), values.dtype)])
        words = _Words(mx.array(np.concatenate([numbers, silent])), values, mx.array(place))
        mx.eval(words.arrays)
        self._own[handle] = words

    def drop(self, handle: int) -> None:
        self._own.pop(handle, None)

    def words_of_rows(self) -> list[int]:
        """The vocabulary of each row: the base's, or a profile's own."""
        return [
            self._own[handle].place.shape[0] if handle in self._own else self._words for handle in self.rows.handles
        ]

    def known(self, tokens: mx.array) -> mx.array:
        """`tokens` with those that the base lacks replaced by its first one."""
        return mx.where(tokens < self._words, tokens, 0) if self._own else tokens

    def looked_up(self, tokens: mx.array, y: mx.array) -> mx.array:
        """y [B, L, K] with the rows of each profile's own words; tokens [B, L]."""
        for words, mine in self._live():
            at = words.place[mx.minimum(tokens, words.place.shape[0] - 1)]
            found = (at >= 0) & mine[:, None]
            y = mx.where(found[..., None], words.values[mx.maximum(at, 0)], y)
        return y

    def logits(self, x: mx.array, y: mx.array) -> mx.array:
        """y [B, L, V] with the logits of each profile's own words for x [B, L, K]; of others' words they mean nothing."""
        live = list(self._live())
        width = max((words.place.shape[0] for words, _ in live), default=0)
        if width > y.shape[-1]:
            rest = mx.zeros((*y.shape[:-1], width - y.shape[-1]), y.dtype)
            y = mx.concatenate([y, rest], axis=-1)
        for words, mine in live:
            own = (x @ words.values.astype(x.dtype).T).astype(y.dtype)
            changed = mx.array(y)
            changed[..., words.numbers] = own + y[..., words.numbers] if self._packed else own
            y = mx.where(mine.reshape(-1, *[1] * (y.ndim - 1)), changed, y)
        return y

    def _at(self, numbers: mx.array) -> mx.array:
        return self._base[mx.minimum(numbers, self._words - 1)].astype(mx.float32)

    def _live(self) -> Iterator[tuple[_Words, mx.array]]:
        """The words of each profile in this batch, and bool [B]: its rows."""
        handles = self.rows.handles
        for handle in sorted(set(handles) & self._own.keys()):
            yield self._own[handle], mx.array([each == handle for each in handles])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for words in list(self._own.values()) for array in words.arrays)
