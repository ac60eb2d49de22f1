"""AdamW with the paper's penalties, some tensors at a time.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   d <- d - rate * mhat / (sqrt(vhat) + eps)
    d <- d - rate * (L2 * d + L1 * mean|d| * sign(d)),   never across zero

Tensors are computed together up to TOGETHER bytes: the transient memory is that of one large tensor and not of the model,
and a device is not waited for after each of hundreds of small ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

BETA1, BETA2, EPS = 0.9, 0.95, 1e-8
CLIP_NORM = 1.0
TOGETHER = 32 << 20


@dataclass
class AdamState:
    """First and second moments by parameter name, and the number of steps taken."""

    m: dict[str, mx.array] = field(default_factory=dict)
    v: dict[str, mx.array] = field(default_factory=dict)
    step: int = 0


@mx.compile
def _adam(
    d: mx.array, g: mx.array, m: mx.array, v: mx.array, rate: mx.array, c1: mx.array, c2: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * mx.square(g)
    return d - rate * (m * c1) / (mx.sqrt(v * c2) + EPS), m, v


@mx.compile
def _decay(d: mx.array, shrink: mx.array, pull: mx.array) -> mx.array:
    shrunk = mx.abs(d) * shrink - pull
    return mx.where(d >= 0, 1.0, -1.0) * mx.maximum(shrunk, 0.0)


def global_norm(grads: dict[str, mx.array]) -> float:
    """sqrt(sum of squares) over all gradients; the tensors' sums are added in f64."""
    total = 0.0
    for names in by_bytes(grads, TOGETHER):
        sums = mx.stack([mx.square(grads[name]).sum() for name in names])
        total += float(np.array(sums.astype(mx.float32)).sum(dtype=np.float64))
    return math.sqrt(total)


def by_bytes(arrays: Mapping[str, mx.array], most_bytes: int) -> Iterator[list[str]]:
    """The names in order, in lists of one array or of at most `most_bytes`."""
    names: list[str] = []
    size = 0
    sizes = {name: array.nbytes for name, array in arrays.items()}  # not the arrays, which are replaced on the way
    for name, nbytes in sizes.items():
        if names and size + nbytes > most_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes
    if names:
        yield names


def update(
    latents: dict[str, mx.array],
    grads: dict[str, mx.array],
    state: AdamState,
    *,
    rate: float,
    grad_scale: float,
    l2: float,
    l1: float,
) -> None:
    """One step in place of the dicts' arrays; g = grads * grad_scale. `grads` is emptied as it goes."""
    state.step += 1
    c1 = mx.array(1 / (1 - BETA1**state.step))
    c2 = mx.array(1 / (1 - BETA2**state.step))
    lr = mx.array(rate)
    for names in by_bytes(latents, TOGETHER):
        for name in names:
            g = grads.pop(name) * grad_scale
            d = latents[name]
            m, v = state.m.get(name), state.v.get(name)
            if m is None or v is None:
                m, v = mx.zeros_like(d), mx.zeros_like(d)
            d, m, v = _adam(d, g, m, v, lr, c1, c2)
            if l2 or l1:
                pull = rate * l1 * mx.abs(d).mean() if l1 else mx.array(0.0)
                d = _decay(d, mx.array(1 - rate * l2), pull)
            latents[name], state.m[name], state.v[name] = d, m, v
        mx.eval([(latents[name], state.m[name], state.v[name]) for name in names])
