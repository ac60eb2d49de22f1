"""The profiles that one model serves at the same time: each has a slot in every layer that it changes.

Profiles are known by a key (their file's digest) and, inside, by a small number, their handle. Whoever owns the set loads and
drops between two steps of the batch; a profile in use stays until its last row has ended. The least recently used one
makes room.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .layers import LINEAR, SWITCH, base_class
from .merge import merge
from .resident import Resident, ResidentTensor
from .row_probe import layers_by_row
from .slot_layers import EXPERTS, NORMS, WORDS, join_slot_siblings, remove_slots, set_slots
from .slot_values import SlotValues, SlotWords
from .slots import BatchRows, LayerSlots, arrays_of
from .targets import array_shape, arrays, is_quantized

BASE = -1
EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)
DEFAULT_MOST = 16


class Content(NamedTuple):
    """What a profile has for one parameter: parts that a kernel adds, rows of their own."""

    parts: bool
    rows: bool


@dataclass
class _Member:
    """A profile in the set: whole once all its tensors are; used by so many rows; to be dropped when they ended."""

    handle: int
    names: tuple[str, ...]
    nbytes: int
    whole: bool = False
    rows: int = 0
    pinned: bool = False
    stale: bool = False


class ResidentSet:
    """At most `most` profiles, and `max_bytes` of their arrays (None: no limit), on one model. Not thread-safe."""

    def __init__(self, model: nn.Module, most: int = DEFAULT_MOST, max_bytes: int | None = None) -> None:
        self.model = model
        self.most = most
        self.max_bytes = max_bytes
        self.rows = BatchRows()
        self._places = {name: (module, key) for name, module, key, _ in arrays(model)}
        self._experts = {
            id(child): module for _, module in model.named_modules() for child in module.children().values()
        }
        self._by_row: set[int] | None = None
        self._slots: dict[str, Any] = {}
        self._changed: list[nn.Module] = []
        self._members: OrderedDict[str, _Member] = OrderedDict()
        self._handles = itertools.count()

    def why_alone(self, resident: Resident) -> str | None:
        """Why `resident` cannot share a batch with others, as a sentence; None where it can."""
        contents = {
            name: Content(bool(tensor.parts), tensor.rows is not None) for name, tensor in resident.tensors.items()
        }
        return self._why_alone(contents, self._layers_by_row())

    def why_alone_by_content(self, contents: Mapping[str, Content]) -> str | None:
        """`why_alone` from a header, without a weight of the model: a layer that sees rows in another order is not found."""
        return self._why_alone(contents, {id(module) for module, _ in self._places.values()})

    def _why_alone(self, contents: Mapping[str, Content], by_row: set[int]) -> str | None:
        for name, content in contents.items():
            module, key = self._places[name]
            kind = base_class(module)
            if not self._mixes(module, key, kind, content, by_row):
                return f"rows of a batch cannot differ in {name}, of the kind {kind.__name__}"
        return None

    def _mixes(self, module: nn.Module, key: str, kind: type[nn.Module], content: Content, by_row: set[int]) -> bool:
        if kind in SWITCH:
            return key == "weight" and not content.rows and type(self._parent(module)) in EXPERTS
        if kind in EMBEDDINGS:
            return key == "weight" and not content.parts and not is_quantized(module)
        return kind in LINEAR + NORMS and key in ("weight", "bias") and id(module) in by_row

    def _layers_by_row(self) -> set[int]:
        if self._by_row is None:
            layers = {id(module): module for module, _ in self._places.values() if type(module) in LINEAR + NORMS}
            words = min(array_shape(module, "weight")[0] for module, _ in self._places.values() if _embeds(module))
            self._by_row = layers_by_row(self.model, list(layers.values()), words)
        return self._by_row

    def _parent(self, module: nn.Module) -> Any:
        return self._experts.get(id(module))

    def room_for(self, resident: Resident) -> bool:
        """Drop what is not in use, the least recently used first, until `resident` fits; False: it does not."""
        idle = [key for key, member in self._members.items() if not member.rows and not member.pinned and member.whole]
        while not self._fits(resident):
            if not idle:
                return False
            self.drop(idle.pop(0))
        return True

    def _fits(self, resident: Resident) -> bool:
        if len(self._members) >= self.most:
            return False
        if self.max_bytes is None or not self._members:
            return True
        begun = sum(member.nbytes for member in self._members.values() if not member.whole)
        return self.nbytes + begun + self._growth(resident) <= self.max_bytes

    def _growth(self, resident: Resident) -> int:
        """Bytes that loading `resident` would add."""
        growth = 0
        for name, tensor in resident.tensors.items():
            slots = self._slots.get(name)
            growth += tensor.nbytes
            if isinstance(slots, LayerSlots) and tensor.parts:
                growth += slots.growth(tensor.parts) - _nbytes(tensor.parts)
        return growth

    def _most_like(self, resident: Resident) -> int:
        """Slots of the stacks that `resident` begins."""
        return self.most if self.max_bytes is None else max(1, min(self.most, self.max_bytes // resident.nbytes))

    def load(self, key: str, resident: Resident) -> Iterator[None]:
        """Give `resident` its slots, a tensor at each step of the iteration; afterwards `ready(key)`.

        Its room is taken from now on. No step of the batch may be in flight meanwhile: see `slots.Stack`.
        """
        member = self._members[key] = _Member(next(self._handles), tuple(resident.tensors), resident.nbytes)
        return self._write(member, resident)

    def _write(self, member: _Member, resident: Resident) -> Iterator[None]:
        most = self._most_like(resident)
        for name, tensor in resident.tensors.items():
            self._put(member.handle, name, tensor, most)
            yield
        join_slot_siblings(self.model, self._changed)
        member.whole = True

    def _put(self, handle: int, name: str, tensor: ResidentTensor, most: int) -> None:
        module, key = self._places[name]
        kind = base_class(module)
        if kind in EMBEDDINGS:
            self._words(name, module).put(handle, tensor)
        elif key == "weight" and kind in LINEAR + SWITCH:
            if tensor.parts:
                self._layer(name, module).put(handle, tensor.parts, most)
            if tensor.rows is not None:
                self._words(name, module).put(handle, tensor)
        else:
            base = module[key]
            self._at(name, key, module, lambda: SlotValues(self.rows, base)).put(handle, merge(base, tensor))

    def _layer(self, name: str, module: nn.Module) -> Any:
        experts = array_shape(module, "weight")[0] if base_class(module) in SWITCH else 1
        if experts > 1 and self._parent(module) is not None:
            self._change(self._parent(module))
        return self._at(name, "weight", module, lambda: LayerSlots(self.rows, experts))

    def _words(self, name: str, module: nn.Module) -> Any:
        words = array_shape(module, "weight")[0]
        packed = is_quantized(module)
        return self._at(f"{name}/rows", WORDS, module, lambda: SlotWords(self.rows, module["weight"], words, packed))

    def _at(self, name: str, key: str, module: nn.Module, make: Any) -> Any:
        if name not in self._slots:
            self._slots[name] = make()
            self._change(module, key, self._slots[name])
        return self._slots[name]

    def _change(self, module: nn.Module, key: str | None = None, slots: Any = None) -> None:
        if not any(module is each for each in self._changed):
            self._changed.append(module)
        set_slots(module, self.rows, key, slots)

    def only_own_words(self, logits: mx.array) -> mx.array:
        """logits [B, ..., V'] with -inf for the words that other profiles in the batch add to the base's V."""
        own = [slots.words_of_rows() for slots in self._slots.values() if isinstance(slots, SlotWords)]
        widths = [max(each) for each in zip(*own, strict=True)]
        if not widths or min(widths) >= logits.shape[-1]:
            return logits
        known = mx.arange(logits.shape[-1]) < mx.array(widths)[:, None]
        return mx.where(known.reshape(len(widths), *[1] * (logits.ndim - 2), -1), logits, -mx.inf)

    def ready(self, key: str) -> bool:
        """Whether rows may use the profile."""
        return key in self._members and self._members[key].whole and not self._members[key].stale

    def acquire(self, key: str) -> int:
        """The handle for one more row of the profile."""
        member = self._members[key]
        member.rows += 1
        self._members.move_to_end(key)
        return member.handle

    def release(self, key: str) -> None:
        """One row of the profile has ended, and no step with it is in flight."""
        member = self._members[key]
        member.rows -= 1
        if member.stale and not member.rows:
            self._remove(key)

    def pin(self, key: str, pinned: bool = True) -> None:
        """Keep the profile however long it is not used."""
        self._members[key].pinned = pinned

    def keep(self, key: str) -> None:
        """Take back a `drop` that waits for the last row."""
        if key in self._members:
            self._members[key].stale = False

    def drop(self, key: str) -> None:
        """Let go of the profile: now, or when its last row ends. One that is not here is no error."""
        member = self._members.get(key)
        if member is None:
            return
        member.stale = True
        if not member.rows:
            self._remove(key)

    def _remove(self, key: str) -> None:
        member = self._members.pop(key)
        for name in member.names:
            for slots in (self._slots.get(name), self._slots.get(f"{name}/rows")):
                if slots is not None:
                    slots.drop(member.handle)

    def keys(self) -> list[str]:
        """The profiles that rows may use, the least recently used first."""
        return [key for key, member in list(self._members.items()) if member.whole and not member.stale]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, those not in use included."""
        return sum(slots.nbytes for slots in list(self._slots.values()))

    def close(self) -> None:
        """Give the model its own layers back."""
        for module in self._changed:
            remove_slots(module)
        self._changed.clear()
        self._slots.clear()
        self._members.clear()
        mx.clear_cache()


def _embeds(module: nn.Module) -> bool:
    return base_class(module) in EMBEDDINGS


def _nbytes(parts: object) -> int:
    return sum(array.nbytes for array in arrays_of(parts))
