"""Readers of a lazily loaded model: logical f32 tensors, one at a time, none kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..adapter.targets import arrays, is_quantized
from ..codec.difference import BF16, Floats, OnDisk
from ..fsio import Json

Reader = Callable[[str], Floats]


def lazy_reader(
    model: nn.Module,
    as_stored: bool = False,
    on_disk: Mapping[str, Callable[[], OnDisk]] | None = None,
    again: Callable[[], nn.Module] | None = None,
) -> tuple[list[str], Reader]:
    """(parameter names, reader) of a lazily loaded model: logical f32 tensors, quantized weights dequantized.

    as_stored: f16 stays f16, and bfloat16 becomes `codec.difference.BF16`, both without a copy. Those in `on_disk` are
    what it returns for them (`base.stored`), and MLX does not read them.

    Nothing is kept: those on disk can be read as often as wanted, MLX's once, and after that by way of `again`, which builds
    the model anew. While one of MLX's is in use, it reads the next name's.
    """
    openers = on_disk or {}

    def lazy(model: nn.Module) -> dict[str, tuple[mx.array, dict[str, Any]]]:
        found = arrays(model)
        return {name: (array, _packing(module, key)) for name, module, key, array in found if name not in openers}

    names, waiting = sorted(name for name, *_ in arrays(model)), lazy(model)
    following = dict(pairwise(names))
    # What is being read; nothing more is once another order than the sorted one shows.
    expected: set[str] = set()

    def read_ahead(name: str | None) -> None:
        if name is not None and (name in waiting or name in openers):
            expected.add(name)
            if name in waiting:
                mx.async_eval(waiting[name][0])

    def read(name: str) -> Floats:
        in_order = not expected or name in expected
        expected.discard(name)
        if name not in openers:
            if name not in waiting and again is not None:
                waiting.update(lazy(again()))
            value, packing = waiting.pop(name)
            value = _unpacked(value, **packing) if packing else value
            value = value if value.ndim else value.reshape(1)
            mx.eval(value)
        if in_order:
            read_ahead(following.get(name))
        if name in openers:
            return openers[name]()
        return _stored(value) if as_stored else np.array(value.astype(mx.float32))

    return names, read


def _stored(value: mx.array) -> np.ndarray:
    """MLX's own memory as an array."""
    if value.dtype == mx.bfloat16:
        return np.array(value.view(mx.uint16), copy=False).view(BF16)
    return np.array(value if value.dtype in (mx.float16, mx.float32) else value.astype(mx.float32), copy=False)


def _unpacked(value: mx.array, global_scale: mx.array | None = None, **packing: Any) -> mx.array:
    """`mx.dequantize`, which takes one global scale: experts may have one each."""
    if global_scale is None or not global_scale.ndim:
        return mx.dequantize(value, global_scale=global_scale, **packing)
    scales = packing.pop("scales")
    experts = zip(value, scales, global_scale, strict=True)
    return mx.stack([mx.dequantize(v, s, global_scale=g, **packing) for v, s, g in experts])


def _packing(module: nn.Module, key: str) -> Json:
    """The other arguments of `mx.dequantize` for `module[key]`, {} where it is not quantized."""
    if key != "weight" or not is_quantized(module):
        return {}
    given = {each: module.get(each) for each in ("scales", "biases", "global_scale")}
    kept = {each: value for each, value in given.items() if value is not None}
    return {**kept, "group_size": module.group_size, "bits": module.bits, "mode": getattr(module, "mode", "affine")}
