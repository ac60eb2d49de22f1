"""Weights from a seed: each tensor's numbers depend on the seed, its name and its shape alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np


def seeded_weights(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """name -> f32 array: norms and other vectors close to 1, biases close to 0, matrices uniform with variance 1 / K."""
    return {name: _tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    values = 2 * np.random.Generator(np.random.PCG64(key)).random(shape) - 1
    if len(shape) > 1:
        return (values * np.sqrt(6.0 / shape[-1])).astype(np.float32)
    return np.asarray(0.3 * values + (0.0 if "bias" in name else 1.0), np.float32)
