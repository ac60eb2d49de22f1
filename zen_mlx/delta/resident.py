"""A profile in memory: its tensors as the MLX arrays that the kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_flatten

from ..format.spec import Profile
from ..kernels.dispatch import Part
from .operands import operands


@dataclass(frozen=True)
class ResidentTensor:
    """One parameter's delta: `shape` as in the model, `parts` in [slots, N, K] form (a vector: one slot, one row)."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[mx.array]:
        """Everything that is in memory for it."""
        return [array for _, array in tree_flatten(self.parts) if array is not None]


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
            shape = tuple(tensor.shape)
            tensors[name] = ResidentTensor(shape, tuple(operands(part, shape) for part in tensor.parts))
            mx.eval(tensors[name].arrays())
        return cls(str(profile.info.get("name", "")), profile.sha256, tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
