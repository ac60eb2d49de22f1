"""Contenders of a sign kernel: the base's matmul that it accompanies, MLX's 1-bit product, a Triton kernel.

Each maker gives a contender of one launch shape: it holds as many distinct weights as no cache holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from ..kernels.dispatch import backend
from ..kernels.operands import SignOperand
from .clock import Contender, evaluation
from .machine import working_set_bytes
from .options import Shape

_MOST = 2048  # distinct matrices of one shape: small ones would be more objects than bytes
_GROUP = 64

MakeContender = Callable[[mx.array], Contender]


def distinct(bytes_each: int) -> int:
    """How many weights of that size are beyond the caches."""
    return max(2, min(_MOST, -(-working_set_bytes() // bytes_each)))


def random_words(keys: Iterator[mx.array], *shape: int) -> mx.array:
    """Random u32 of that shape."""
    return mx.random.randint(-(2**31), 2**31 - 1, shape, mx.int32, key=next(keys)).view(mx.uint32)


def random_keys(seed: int) -> Iterator[mx.array]:
    """Endless distinct keys."""
    key = mx.random.key(seed)
    while True:
        key, now = mx.random.split(key)
        yield now


def weight_dtype() -> mx.Dtype:
    """The dtype of activations and dense weights in a bench: f32 on CPU, bf16 on a GPU."""
    return mx.float32 if backend() == "cpu" else mx.bfloat16


def base_names() -> tuple[str, ...]:
    """The matmuls of a base that a profile rides on, here."""
    return ("f32",) if backend() == "cpu" else ("bf16", "4-bit")


def base_weights(shape: Shape) -> dict[str, MakeContender]:
    """The base's own products on this backend, by name."""
    makers = {"f32": _dense, "bf16": _dense, "4-bit": _four_bit}
    return {name: makers[name](f"base {name}", shape) for name in base_names()}


def _dense(name: str, shape: Shape) -> MakeContender:
    keys = random_keys(1)
    dtype = weight_dtype()
    count = distinct(sum(shape.outputs) * shape.k * dtype.size)
    layers = []
    for _ in range(count):
        layers.append([mx.random.uniform(-1, 1, (n, shape.k), key=next(keys)).astype(dtype) for n in shape.outputs])
        mx.eval(layers[-1])
    return lambda x: evaluation(name, count, lambda i: [x @ weight.T for weight in layers[i]])


def _four_bit(name: str, shape: Shape) -> MakeContender:
    keys = random_keys(2)
    count = distinct(sum(shape.outputs) * shape.k // 2)
    layers = []
    for _ in range(count):
        layer = []
        for n in shape.outputs:
            scales = mx.random.uniform(0.01, 0.02, (n, shape.k // _GROUP), key=next(keys)).astype(weight_dtype())
            layer.append((random_words(keys, n, shape.k // 8), scales, -8 * scales))
        mx.eval(layer)
        layers.append(layer)

    def call(x: mx.array, i: int) -> list[mx.array]:
        return [
            mx.quantized_matmul(x, packed, scales, biases, group_size=_GROUP, bits=4)
            for packed, scales, biases in layers[i]
        ]

    return lambda x: evaluation(name, count, lambda i: call(x, i))


def mlx_one_bit(planes: list[list[SignOperand]], k: int) -> MakeContender | None:
    """MLX's 1-bit product of the same bits with scales 2 and biases -1: no row or column scale, no y_base. None on CUDA,
    where MLX has none, and where K is no multiple of 32."""
    if backend() == "cuda" or k % 32:
        return None
    group = next(size for size in (128, 64, 32) if k % size == 0)
    scales = {s.packed.shape[1]: mx.full((s.packed.shape[1], k // group), 2, weight_dtype()) for s in planes[0]}
    biases = {n: -array / 2 for n, array in scales.items()}
    mx.eval(scales, biases)

    def call(x: mx.array, i: int) -> list[mx.array]:
        return [
            mx.quantized_matmul(
                x, s.packed[0], scales[s.packed.shape[1]], biases[s.packed.shape[1]], group_size=group, bits=1
            )
            for s in planes[i]
        ]

    return lambda x: evaluation("MLX 1-bit", len(planes), lambda i: call(x, i))


def triton_peer(shape: Shape, rows: int) -> Contender | None:
    """The Triton kernel of `triton_peer`, or None off CUDA and where triton and torch are not installed."""
    if backend() != "cuda" or shape.k % 32 or not all(map(importlib.util.find_spec, ("triton", "torch"))):
        return None
    from . import triton_peer as peer

    made: Any = peer.contender(shape, rows, distinct(sum(shape.outputs) * shape.k // 8))
    return made
