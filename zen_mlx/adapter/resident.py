"""Profiles in memory: their tensors as the MLX arrays that the kernels read, within a byte budget.

The least recently used profile is dropped first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_flatten

from ..codec.parts import RowsPart
from ..format.spec import DeltaTensor, Profile
from ..kernels.dispatch import DenseOperand, Operand
from .part_operands import operands


@dataclass(frozen=True)
class Rows:
    """delta[numbers[i], :] = values[i, :]: numbers u32 [R], values [R, K], f16 or f32."""

    numbers: mx.array
    values: mx.array


@dataclass(frozen=True)
class ResidentTensor:
    """One parameter's delta: `shape` as in the model, `parts` in [slots, N, K] form (a vector: one slot, one row).

    rows: changed rows, added after the parts; with them `shape` may have more rows than the parameter.
    """

    shape: tuple[int, ...]
    parts: tuple[Operand, ...]
    rows: Rows | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        """Everything that is in memory for it."""
        own = [self.rows.numbers, self.rows.values] if self.rows is not None else []
        return own + [array for array in dict(tree_flatten(self.parts)).values() if array is not None]

    def dense_parts(self) -> tuple[Operand, ...]:
        """`parts`, with the rows written out: for a layer that computes beside its weight."""
        if self.rows is None:
            return self.parts
        values = mx.zeros(self.shape, self.rows.values.dtype)
        values[self.rows.numbers] = self.rows.values
        return (*self.parts, DenseOperand(values[None]))


@dataclass(frozen=True, eq=False)
class Resident:
    """A profile's deltas by parameter name. `digest`: the file's SHA-256, None if it never was a version 2 file."""

    name: str
    digest: str | None
    tensors: dict[str, ResidentTensor]

    @classmethod
    def from_profile(cls, profile: Profile, consume: bool = True) -> Resident:
        """Copy a profile into MLX arrays; `consume` pops `profile.tensors`: peak is the profile + one tensor."""
        tensors = {}
        for name in list(profile.tensors):
            tensor = profile.tensors.pop(name) if consume else profile.tensors[name]
            tensors[name] = _resident(tensor)
            mx.eval(tensors[name].arrays())
        return cls(str(profile.info.get("name", "")), profile.sha256, tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def _resident(tensor: DeltaTensor) -> ResidentTensor:
    shape = tuple(tensor.shape)
    rows, parts = None, []
    for part in tensor.parts:
        if isinstance(part, RowsPart):
            rows = Rows(mx.array(part.rows), mx.array(part.values))
        else:
            parts.append(operands(part, shape))
    return ResidentTensor(shape, tuple(parts), rows)


DEFAULT_MAX_BYTES = 4 << 30


class ResidentProfiles:
    """Resident profiles by key (a file's digest), at most `max_bytes` of arrays; the newest always stays."""

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Resident] = OrderedDict()

    def get(self, key: str, load: Callable[[], Resident]) -> Resident:
        """The profile of `key`, loaded when it is not in memory; others are dropped to make room."""
        resident = self._kept.get(key)
        if resident is None:
            resident = load()
            self._kept[key] = resident
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self.nbytes > self.max_bytes:
            self._kept.popitem(last=False)
        return resident

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays kept."""
        return sum(resident.nbytes for resident in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)
