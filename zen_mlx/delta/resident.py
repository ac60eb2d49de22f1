"""A profile in memory: its tensors as the MLX arrays that the kernels read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..codec import parts as codec
from ..codec.factor import FactorPart
from ..errors import TargetError
from ..format.spec import DeltaTensor, Profile
from ..kernels.dispatch import Dense, Part, Sign


@dataclass(frozen=True)
class ResidentTensor:
    """One parameter's delta: `shape` as in the model, `parts` in [slots, N, K] form (a vector: one slot, one row)."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for part in self.parts for array in part if array is not None)


def slot_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[.., N, K] as [slots, N, K]: leading axes are slots, a vector is one slot of one row."""
    n, k = (1, *shape)[-2:]
    return math.prod(shape[:-2]), n, k


def _sign(part: codec.SignPart, shape: tuple[int, ...]) -> Sign:
    s, n, k = slot_shape(shape)
    scales = [np.asarray(scale, dtype=np.float32) for scale in part.scales]
    row = col = block = None
    if part.scale == "tensor":
        row = np.repeat(scales[0].reshape(s, 1), n, axis=1)
    elif part.scale == "row":
        row = scales[0].reshape(s, n)
    elif part.scale == "col":
        col = scales[0].reshape(s, k)
    elif part.scale == "rowcol":
        row, col = scales[0].reshape(s, n), scales[1].reshape(s, k)
    elif part.scale == "block":
        block = scales[0].reshape(s, n, -1)
    else:
        raise TargetError(
            "unknown kind of scale", field="scale", expected="tensor, row, col, rowcol, block", found=part.scale
        )
    arrays = [None if a is None else mx.array(a) for a in (row, col, block)]
    return Sign(mx.array(part.bits.reshape(s, n, -1)), *arrays)


def _convert(tensor: DeltaTensor) -> ResidentTensor:
    shape = tuple(tensor.shape)
    parts: list[Part] = []
    for part in tensor.parts:
        if isinstance(part, codec.SignPart):
            parts.append(_sign(part, shape))
        elif not isinstance(part, codec.DensePart):
            kind = "factors" if isinstance(part, FactorPart) else "single rows"
            raise TargetError(f"{kind} are not yet applicable to a model", field="kind", expected="sign or dense")
        else:
            parts.append(Dense(mx.array(part.values.reshape(slot_shape(shape)))))
    return ResidentTensor(shape, tuple(parts))


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
            tensors[name] = _convert(tensor)
            mx.eval(*(array for part in tensors[name].parts for array in part if array is not None))
        return cls(str(profile.info.get("name", "")), profile.sha256, tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
