"""y = base(x) + delta(x): a frozen layer, and the arrays that are trained on top of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..adapter.targets import check_targets, target_layers, targets


class QuantizationRamp:
    """lambda, shared by all layers of a run; `value` changes between steps."""

    def __init__(self) -> None:
        self.value = 0.0


class TrainableLayer(nn.Module):
    """What every trained layer has: the base layer, whose parameters are not its own, and lambda."""

    def __init__(self, base: nn.Module, share: QuantizationRamp) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # MLX gives it no types
        self._base = [base]  # in a list: the base's parameters are not this module's
        self._share = share

    def __getattr__(self, name: str) -> Any:
        if name in self or name.startswith("_"):
            return super().__getattr__(name)
        return getattr(self._base[0], name)


MakeLayer = Callable[[str, nn.Module, tuple[int, ...]], TrainableLayer]
"""(parameter name, target layer, logical shape of its weight) -> the layer that stands in for it."""


@contextlib.contextmanager
def trainable_layers(model: nn.Module, make: MakeLayer) -> Iterator[dict[str, TrainableLayer]]:
    """Put `make`'s layer over every target of `model` for the block; only their arrays are trainable in it."""
    check_targets(model)
    places = []
    for module in model.modules():
        if not hasattr(module, "_no_grad"):  # a class of mlx-lm that does not call nn.Module's constructor
            module._no_grad = set()
    frozen = [(module, set(module._no_grad)) for module in model.modules()]
    shapes = targets(model)
    layers: dict[str, TrainableLayer] = {}
    modules = dict(model.named_modules())
    for name, base in target_layers(model).items():
        layers[name] = make(name, base, shapes[name])
        places.append((*_place(modules, name.removesuffix(".weight")), base))
    model.freeze()
    try:
        for (parent, key, _), layer in zip(places, layers.values(), strict=True):
            parent[key] = layer
        yield layers
    finally:
        for parent, key, base in places:
            parent[key] = base
        for module, keys in frozen:
            module._no_grad = keys


def _place(modules: dict[str, nn.Module], path: str) -> tuple[Any, str | int]:
    """(container, key) of the module at `path`: a module and an attribute, or a list and an index."""
    parent, _, key = path.rpartition(".")
    if parent in modules:
        return modules[parent], key
    owner, _, attribute = parent.rpartition(".")
    return modules[owner][attribute], int(key)


def trained_arrays(layers: dict[str, TrainableLayer]) -> dict[str, mx.array]:
    """Every trained array by `array_name`."""
    return {
        array_name(name, key): value
        for name, layer in layers.items()
        for key, value in layer.items()
        if isinstance(value, mx.array)
    }


def put_arrays(layers: dict[str, TrainableLayer], arrays: dict[str, mx.array]) -> None:
    """Give the layers these arrays, named as in `trained_arrays`, and no others."""
    given: dict[str, dict[str, mx.array]] = {name: {} for name in layers}
    for full, value in arrays.items():
        name, _, key = full.rpartition("/")
        given[name or full][key if name else "latent"] = value
    for name, layer in layers.items():
        for key, value in list(layer.items()):
            if isinstance(value, mx.array) and key not in given[name]:
                del layer[key]
        dict.update(layer, given[name])  # not nn.Module.update, which wants the arrays that are there


def array_name(name: str, key: str) -> str:
    """The name of array `key` in the layer of parameter `name`: a latent has the parameter's own."""
    return name if key == "latent" else f"{name}/{key}"
