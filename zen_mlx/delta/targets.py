"""Which arrays of a model a delta may name, and how large they are.

A *target* is the weight of a linear layer inside the model's layers (attention, MLP, experts): never an embedding, the
`lm_head` or a router that chooses experts. Targets take sign planes and are computed beside the base; every other
parameter may only be replaced as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from .layers import LINEAR, SWITCH, base_class

ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


def logical_shape(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight as it was before quantization."""
    weight = layer["weight"]
    if not is_quantized(layer):
        return tuple(weight.shape)
    return (*weight.shape[:-1], weight.shape[-1] * 32 // layer.bits)


def _is_router(path: str, switches: list[str]) -> bool:
    """True where `path` runs through a router's name inside a block that also holds experts."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part in ROUTERS:
            block = ".".join(parts[:i]) + "."
            if any(switch.startswith(block) for switch in switches):
                return True
    return False


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module, in the order of the model's tree; a module that stands in two places has its first path."""
    unique = {id(module): (path, module) for path, module in model.named_modules()}  # type: ignore[no-untyped-call]
    return dict(reversed(unique.values()))


def target_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Parameter name (with `.weight`) -> layer, for every target, in the order of the model's tree.

    Subclasses of the four kinds of layer are left alone: their call may mean something else.
    """
    modules = _modules(model)
    switches = [path for path, module in modules.items() if isinstance(module, SWITCH)]
    found: dict[str, nn.Module] = {}
    for path, module in modules.items():
        inside = any(part.isdigit() for part in path.split("."))
        if base_class(module) in LINEAR + SWITCH and inside and not _is_router(path, switches):
            found[f"{path}.weight"] = module
    return found


def targets(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter name (with `.weight`) -> logical shape ([N, K], experts [E, N, K]) of every target."""
    return {name: logical_shape(layer) for name, layer in target_layers(model).items()}


def target_count(model: nn.Module) -> int:
    """Elements of all target weights: the `target_count` of a profile."""
    return sum(math.prod(shape) for shape in targets(model).values())


def is_quantized(module: nn.Module) -> bool:
    """True where `weight` holds packed codes."""
    return "scales" in module and hasattr(module, "bits")


def arrays(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, mx.array]]:
    """(full name, module, key, array) of every parameter; a quantized weight's scales and biases are part of it."""
    for path, module in _modules(model).items():
        inner = ("scales", "biases", "global_scale") if is_quantized(module) else ()
        for key, value in module.items():
            if isinstance(value, mx.array) and not key.startswith("_") and key not in inner:
                yield (f"{path}.{key}" if path else key), module, key, value


def can_grow(module: nn.Module, key: str) -> bool:
    """Whether `module[key]` may get more rows: an embedding or a head, to which the vocabulary adds tokens."""
    return key == "weight" and isinstance(module, (nn.Embedding, nn.Linear)) and "bias" not in module


def array_shape(module: nn.Module, key: str) -> tuple[int, ...]:
    """The logical shape of `module[key]`."""
    return logical_shape(module) if key == "weight" else tuple(module[key].shape)


def model_count(model: nn.Module) -> int:
    """Elements of the whole model before quantization, an array that two modules share counted once."""
    unique = {id(value): math.prod(array_shape(module, key)) for _, module, key, value in arrays(model)}
    return sum(unique.values())
