"""Rank allocation: the full-precision part of a factor run decides each layer's ranks and bits.

The columns of a layer are rotated to the singular directions of U^T V, largest first, and each direction gets 8, 4, 2 or
no bits by the rule of `encode.rate_allocation`, with its squared singular value as its energy, so that the file is as
large as was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import mlx.core as mx
import numpy as np

from ..encode.byte_budget import choice_bytes
from ..encode.rate_allocation import Choice, Spectrum, allocate
from ..errors import ConfigError
from .trainable import array_name

Arrays = dict[str, mx.array]


def allocate_ranks(
    arrays: Mapping[str, mx.array], shapes: Mapping[str, tuple[int, ...]], bits_per_weight: float, scaled: bool
) -> Arrays | None:
    """The factors of every layer in the groups that it is to keep; None where nothing has been learned yet.

    left [E.., g, N] and right [E.., g, K] by the names of `factor`; the rows of right have norm 1, as at the start.
    A layer that is to keep nothing has no arrays. Experts of a layer share their groups.
    """
    turned = {name: _turn(arrays, name) for name in shapes}
    spectra = {}
    for name, (_, values, _) in turned.items():
        energies = (values.astype(np.float64) ** 2).reshape(-1, values.shape[-1]).sum(axis=0)
        spectra[name] = Spectrum(shapes[name], energies, energies, energies.sum(), energies.sum(), (1.0,))
    if not any(each.total_seen for each in spectra.values()):
        return None
    budget = int(bits_per_weight * sum(prod(shape) for shape in shapes.values()) / 8)
    try:
        choices = allocate(spectra, lambda found: choice_bytes(shapes, found, scaled), budget, kinds=("factor",))
    except ConfigError:
        return None
    kept = _kept(turned, choices)
    scales = {f"{name}/{side}" for name, choice in choices.items() if not choice.empty for side in ("u", "v")}
    return kept | {key: value for key, value in arrays.items() if key in scales}


def _turn(arrays: Mapping[str, mx.array], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U [E.., N, r], S [E.., r], V^T [E.., r, K]) of a layer's product of factors."""
    keys = sorted(key for key in arrays if key.startswith(array_name(name, "left")))
    left = np.concatenate([np.array(arrays[key]) for key in keys], axis=-2).swapaxes(-1, -2)
    right = np.concatenate([np.array(arrays[key.replace("/left", "/right")]) for key in keys], axis=-2).swapaxes(-1, -2)
    (q1, r1), (q2, r2) = np.linalg.qr(left), np.linalg.qr(right)
    u, s, v = np.linalg.svd(r1 @ r2.swapaxes(-1, -2))
    return q1 @ u, s, v @ q2.swapaxes(-1, -2)


def _kept(turned: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], choices: Mapping[str, Choice]) -> Arrays:
    out: Arrays = {}
    for name, choice in choices.items():
        u, s, v = turned[name]
        at = 0
        for bits, rank in choice.groups:
            here = slice(at, at + rank)
            left = (u[..., here] * s[..., None, here]).swapaxes(-1, -2)
            out[array_name(name, f"left{bits}")] = mx.array(np.ascontiguousarray(left, dtype=np.float32))
            out[array_name(name, f"right{bits}")] = mx.array(np.ascontiguousarray(v[..., here, :], dtype=np.float32))
            at += rank
    return out
