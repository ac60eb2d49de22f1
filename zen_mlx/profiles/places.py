"""Names in a foreign file -> parameters of the base: prefixes, experts one by one or stacked, fused or split projections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

from ..delta.targets import array_shape, arrays, can_grow, is_head, is_quantized
from ..errors import TargetError
from ..format.foreign.spec import Entry
from .slices import rows_of, take_rows

_PREFIXES = ("", "model.", "language_model.", "language_model.model.")
_WRAPPERS = ("", "base_model.model.", "module.")
_EXPERT = re.compile(r"(.+\.)experts\.(0|[1-9][0-9]{0,4})\.(.+)", re.DOTALL)
_EXPERT_NAMES = {"w1.weight": "gate_proj.weight", "w2.weight": "down_proj.weight", "w3.weight": "up_proj.weight"}
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class Parameter:
    """What the importer asks of a parameter. tied: it is the embedding, and the head too. grows: may get more rows."""

    shape: tuple[int, ...]
    embedding: bool
    tied: bool
    quantized: bool
    grows: bool


@dataclass(frozen=True, eq=False)
class Placed:
    """An entry, or some rows of one, for `parameter`: for one expert of it, from row `start` on; None: all of it."""

    parameter: str
    entry: Entry
    expert: int | None = None
    start: int | None = None


def parameters(model: nn.Module) -> dict[str, Parameter]:
    """Every parameter of the base by name."""
    found = list(arrays(model))
    head = any(is_head(name, module) for name, module, *_ in found)
    out = {}
    for name, module, key, _ in found:
        embedding = isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)) and key == "weight"
        quantized = key == "weight" and is_quantized(module)
        grows = can_grow(name, module, key)
        out[name] = Parameter(array_shape(module, key), embedding, embedding and not head, quantized, grows)
    return out


def place(name: str, entry: Entry, base: dict[str, Parameter]) -> Iterator[Placed]:
    """Where `entry` belongs. TargetError: nowhere in this base."""
    for known in _candidates(name):
        if known in base:
            yield Placed(known, entry)
            return
    match = _EXPERT.fullmatch(name)
    if match is not None:
        last = _EXPERT_NAMES.get(match[3], match[3])
        for inner in (f"switch_mlp.{last}", f"experts.{last}"):
            for known in _candidates(match[1] + inner):
                if known in base and len(base[known].shape) == 3:
                    yield Placed(known, entry, int(match[2]))
                    return
    yield from _fused(name, entry, base)


def _candidates(name: str) -> Iterator[str]:
    for wrapper in _WRAPPERS:
        for stripped in (wrapper, f"{wrapper}model."):
            if name.startswith(stripped):
                for prefix in _PREFIXES:
                    yield prefix + name[len(stripped) :]


def _fused(name: str, entry: Entry, base: dict[str, Parameter]) -> Iterator[Placed]:
    """q, k, v (gate, up) into the base's one layer; or one layer into the base's q, k, v (gate, up)."""
    parent, _, leaf = name.rpartition(".")
    parent, _, layer = parent.rpartition(".")
    dot = "." if parent else ""
    count = rows_of(entry)
    for fused, members in _FUSED.items():
        if layer in members:
            for known in _candidates(f"{parent}{dot}{fused}.{leaf}"):
                if known in base:
                    total = base[known].shape[0]
                    # Keys and values are equally tall, so each of the three has its place without the others.
                    start = {"q_proj": 0, "k_proj": total - 2 * count, "v_proj": total - count}.get(
                        layer, 0 if layer == "gate_proj" else total - count
                    )
                    if start < 0 or (fused == "gate_up_proj" and 2 * count != total):
                        raise TargetError(
                            "a delta has another shape than its part of a fused layer",
                            field=name,
                            expected=f"a part of {total} rows",
                            found=f"{count} rows",
                        )
                    yield Placed(known, entry, None, start)
                    return
        elif layer == fused:
            for first in _candidates(f"{parent}{dot}{members[0]}.{leaf}"):
                names = [first.replace(f"{members[0]}.{leaf}", f"{member}.{leaf}") for member in members]
                if all(known in base for known in names):
                    yield from _split(name, entry, [(known, base[known].shape[0]) for known in names])
                    return
    raise TargetError("the base model has no such parameter", field=name, found="a delta for it")


def _split(name: str, entry: Entry, sizes: list[tuple[str, int]]) -> Iterator[Placed]:
    total, found = sum(size for _, size in sizes), rows_of(entry)
    if total != found:
        raise TargetError("a delta has another shape than its parameters", field=name, expected=total, found=found)
    start = 0
    for known, size in sizes:
        yield Placed(known, take_rows(entry, start, start + size))
        start += size


def describe(placed: Placed) -> Any:
    """A few words for an error: the parameter, and which part of it."""
    return placed.parameter if placed.expert is None else f"{placed.parameter}[{placed.expert}]"
