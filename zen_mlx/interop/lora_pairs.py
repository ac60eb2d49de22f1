"""A profile's tensors -> pairs delta = up @ down for a LoRA adapter: exactly where they are factors, by SVD on request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..codec.factor import FactorPart, side_values
from ..codec.parts import decode_all
from ..codec.svd import leading_factors
from ..errors import ConfigError
from ..format.spec import DeltaTensor, Profile

_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Pair:
    """delta = scale * up @ down: up f32 [E.., N, r], down f32 [E.., r, K]."""

    up: np.ndarray
    down: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        return int(self.up.shape[-1])


@dataclass(frozen=True)
class LowRank:
    """pairs by parameter; lost: a sentence for each thing an adapter cannot hold; error: ||D' - D|| / ||D|| over all."""

    pairs: dict[str, Pair]
    lost: tuple[str, ...]
    error: float


def low_rank(profile: Profile, rank: int | None) -> LowRank:
    """Every matrix of the profile as a pair, with `rank` by SVD where it is not a factor.

    ConfigError, with what it would take, where something is not a factor and no rank was given.
    """
    if rank is not None and rank < 1:
        raise ConfigError("bad rank", field="rank", expected=">= 1", found=rank)
    other = [name for name, tensor in profile.tensors.items() if not _is_factor(tensor)]
    if other and rank is None:
        raise _too_much(profile, other)
    pairs: dict[str, Pair] = {}
    left_out, lost, energy = [], 0.0, 0.0
    for name, tensor in profile.tensors.items():
        if _is_factor(tensor):
            pairs[name] = exact_pair(tensor)
            if other:
                energy += _energy(decode_all(tensor.parts, tensor.shape))
            continue
        delta = decode_all(tensor.parts, tensor.shape)
        energy += _energy(delta)
        if len(tensor.shape) < 2 or _is_rows(tensor):
            left_out.append(name)
            lost += _energy(delta)
            continue
        pairs[name] = _svd(delta, rank or 1)
        lost += _energy(pairs[name].up @ pairs[name].down - delta)
    if not pairs:
        raise ConfigError("nothing in this profile fits an adapter", field="format", expected="a matrix", found="none")
    sentences = []
    error = math.sqrt(lost / energy) if energy else 0.0
    if other:
        count = len(other) - len(left_out)
        sentences.append(f"{count} matrices are approximated at rank {rank}: {100 * error:.1f} % relative error in all")
    if left_out:
        sentences.append(f"{len(left_out)} vectors or changed rows cannot be stored in an adapter ({left_out[0]}, ..)")
    return LowRank(pairs, tuple(sentences), error)


def exact_pair(tensor: DeltaTensor) -> Pair:
    """A tensor of factors as one pair; the scale stands apart where all columns of all groups share it."""
    ups, downs, scales = [], [], []
    for part in tensor.parts:
        assert isinstance(part, FactorPart)
        for group in part.groups:
            up = side_values(group.left, group.bits, tensor.shape[-2])
            down = side_values(group.right, group.bits, tensor.shape[-1])
            up = up if part.u is None else up * part.u.astype(np.float32)[..., None, :]
            down = down if part.v is None else down * part.v.astype(np.float32)[..., None, :]
            ups.append(up)
            downs.append(down)
            ones = np.ones(up.shape[:-1], np.float32)
            scales.append(ones if group.scales is None else group.scales.astype(np.float32))
    up, down, scale = (np.concatenate(each, axis=axis) for each, axis in ((ups, -2), (downs, -2), (scales, -1)))
    common = float(scale.max())
    # An expert that has no delta, or a padded column, has scale 0 and zero columns.
    if not ((scale == common) | (scale == 0)).all():
        up, common = up * scale[..., None], 1.0
    else:
        up = np.where(scale[..., None] == 0, np.float32(0), up)
    return Pair(np.ascontiguousarray(up.swapaxes(-1, -2)), np.ascontiguousarray(down), common)


def padded(pair: Pair, rank: int) -> Pair:
    """The same product with zero columns up to `rank`."""
    missing = rank - pair.rank
    if not missing:
        return pair
    edges = [(0, 0)] * (pair.up.ndim - 2)
    up = np.pad(pair.up, [*edges, (0, 0), (0, missing)])
    return Pair(up, np.pad(pair.down, [*edges, (0, missing), (0, 0)]), pair.scale)


def rescaled(pair: Pair, scale: float) -> Pair:
    """The same delta under another scale; exact where the two differ by a power of two."""
    if pair.scale == scale:
        return pair
    return Pair((pair.up.astype(np.float64) * (pair.scale / scale)).astype(np.float32), pair.down, scale)


def _svd(delta: np.ndarray, rank: int) -> Pair:
    *lead, n, k = delta.shape
    rank = min(rank, n, k)
    sides = [leading_factors(each, rank) for each in delta.reshape(-1, n, k)]
    up, down = (np.stack([side[index] for side in sides]) for index in (0, 1))
    return Pair(np.ascontiguousarray(up.reshape(*lead, rank, n).swapaxes(-1, -2)), down.reshape(*lead, rank, k), 1.0)


def _is_factor(tensor: DeltaTensor) -> bool:
    return all(isinstance(part, FactorPart) for part in tensor.parts)


def _is_rows(tensor: DeltaTensor) -> bool:
    from ..codec.parts import RowsPart

    return any(isinstance(part, RowsPart) for part in tensor.parts)


def _too_much(profile: Profile, other: Sequence[str]) -> ConfigError:
    """What an exact adapter would take: the rank of whole matrices, in bytes."""
    matrices = [tensor.shape for tensor in profile.tensors.values() if len(tensor.shape) > 1]
    exact = sum(math.prod(shape[:-2]) * min(shape[-2:]) * sum(shape[-2:]) for shape in matrices) * _FLOAT_BYTES
    each = sum(math.prod(shape[:-2]) * sum(shape[-2:]) for shape in matrices) * _FLOAT_BYTES
    top = max((min(shape[-2:]) for shape in matrices), default=0)
    stored = sum(tensor.nbytes for tensor in profile.tensors.values())
    return ConfigError(
        "an adapter can hold only factors exactly",
        field=other[0],
        expected="a profile of factors alone",
        found=f"{len(other)} tensors of another kind",
        hint=f"the profile takes {stored / 1e6:.1f} MB; an exact adapter would take {exact / 1e6:.1f} MB (rank {top}); "
        f"--rank R approximates it with {each / 1e6:.2f} MB times R and reports the error",
    )


def _energy(delta: np.ndarray) -> float:
    return float(np.square(delta, dtype=np.float64).sum())
