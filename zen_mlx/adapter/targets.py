"""The arrays of a model that a delta may name, and their sizes.

A *target* is the weight of a linear layer inside the model's layers (attention, MLP, experts, the projections of a
state space): never an embedding, the head or a router that chooses experts. Targets take sign planes and are computed
beside the base; every other parameter is replaced as a whole, but for a packed head or router, which is computed
beside too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ..errors import TargetError
from .layers import LINEAR, SWITCH, base_class

ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
_EXPERT = re.compile(r"\bexperts\.\d")


def logical_shape(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's weight as it was before quantization."""
    weight = layer["weight"]
    if not is_quantized(layer):
        return tuple(weight.shape)
    return (*weight.shape[:-1], weight.shape[-1] * 32 // layer.bits)


def _is_router(path: str, experts: list[str]) -> bool:
    """True where `path` runs through a router's name inside a block that also holds experts."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part in ROUTERS:
            block = ".".join(parts[:i]) + "."
            if any(each.startswith(block) for each in experts):
                return True
    return False


def _experts(modules: dict[str, nn.Module]) -> list[str]:
    """Paths of what a router chooses from: stacked experts, or a list of them (DBRX)."""
    return [path for path, module in modules.items() if isinstance(module, SWITCH) or _EXPERT.search(path)]


def _inside(path: str) -> bool:
    """Whether `path` lies in the model's numbered layers."""
    return any(part.isdigit() for part in path.split("."))


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> module, in the order of the model's tree; a module that stands in two places has its first path."""
    unique = {id(module): (path, module) for path, module in model.named_modules()}
    return dict(reversed(unique.values()))


def target_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Parameter name (with `.weight`) -> layer, for every target, in the order of the model's tree.

    Subclasses of the four kinds of layer are left alone: their call may mean something else.
    """
    modules = _modules(model)
    experts = _experts(modules)
    found: dict[str, nn.Module] = {}
    for path, module in modules.items():
        if base_class(module) in LINEAR + SWITCH and _inside(path) and not _is_router(path, experts):
            found[f"{path}.weight"] = module
    return found


def targets(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter name (with `.weight`) -> logical shape ([N, K], experts [E, N, K]) of every target."""
    return {name: logical_shape(layer) for name, layer in target_layers(model).items()}


def check_targets(model: nn.Module, path: str | Path | None = None) -> None:
    """TargetError for a model in which nothing is a target: its layers are of kinds that take no delta."""
    if target_layers(model):
        return
    kinds = {type(module).__name__ for name, module in model.named_modules() if _inside(name) and "weight" in module}
    raise TargetError(
        "no layer of this model takes a delta",
        path=path,
        expected="nn.Linear, nn.QuantizedLinear, SwitchLinear or QuantizedSwitchLinear",
        found=", ".join(sorted(kinds)) or "none",
    )


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


def can_grow(name: str, module: nn.Module, key: str) -> bool:
    """Whether `module[key]` may get more rows: an embedding or a head, to which the vocabulary adds tokens."""
    kinds = (nn.Embedding, nn.Linear)
    return key == "weight" and isinstance(module, kinds) and "bias" not in module and not _inside(name)


def is_head(name: str, module: nn.Module) -> bool:
    """Whether `name` is of a linear layer outside the numbered ones."""
    return base_class(module) in LINEAR and not _inside(name)


def is_beside(module: nn.Module, key: str) -> bool:
    """Whether the delta of `module[key]`, no target, is computed beside it: a packed head or router."""
    return key == "weight" and is_quantized(module) and base_class(module) in LINEAR


def missing_bytes(module: nn.Module, key: str) -> int:
    """What `module[key]`, packed, would take more in 16 bits."""
    return 2 * math.prod(array_shape(module, key)) - int(module[key].nbytes)


def kept_packed(model: nn.Module) -> dict[str, int]:
    """Name -> `missing_bytes` of what stays as it is when a fine-tune is compressed on a packed base.

    Packed embeddings and MLA's packed per-head projections take no delta; a packed head's would be 16-bit numbers,
    mostly the error of its 4. Routers are small: theirs is kept.
    """
    wanted = target_layers(model)
    found = {}
    for name, module, key, _ in arrays(model):
        router = is_beside(module, key) and _inside(name)
        if key == "weight" and is_quantized(module) and name not in wanted and not router:
            found[name] = missing_bytes(module, key)
    return found


def array_shape(module: nn.Module, key: str) -> tuple[int, ...]:
    """The logical shape of `module[key]`; a lone number's is that of a vector of one."""
    return logical_shape(module) if key == "weight" else tuple(module[key].shape) or (1,)


def model_count(model: nn.Module) -> int:
    """Elements of the whole model before quantization, an array that two modules share counted once."""
    unique = {id(value): math.prod(array_shape(module, key)) for _, module, key, value in arrays(model)}
    return sum(unique.values())
