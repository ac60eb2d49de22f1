"""Names in a foreign file -> parameters of the base: prefixes, experts one by one or stacked, fused or split projections.

Where a foreign tensor is a part of a parameter, or holds several of them, its rows are taken or joined here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.nn as nn
import numpy as np

from ..adapter.targets import array_shape, arrays, can_grow, is_head, is_quantized
from ..codec.parts import DensePart, SignPart
from ..errors import TargetError
from ..format.spec import DeltaTensor
from .parse.foreign import Entry, Lora, Whole

_PREFIXES = ("", "model.", "language_model.", "language_model.model.")
_WRAPPERS = ("", "base_model.model.", "module.")
_INNER = ("", "model.", "model.language_model.", "language_model.", "language_model.model.")
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
class MappedTensor:
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


def map_name(name: str, entry: Entry, base: dict[str, Parameter]) -> Iterator[MappedTensor]:
    """Where `entry` belongs. TargetError: nowhere in this base."""
    name = name.replace(".base_layer.", ".")
    for known in _candidates(name):
        if known in base:
            yield MappedTensor(known, entry)
            return
    match = _EXPERT.fullmatch(name)
    if match is not None:
        last = _EXPERT_NAMES.get(match[3], match[3])
        for inner in (f"switch_mlp.{last}", f"experts.{last}"):
            for known in _candidates(match[1] + inner):
                if known in base and len(base[known].shape) == 3:
                    yield MappedTensor(known, entry, int(match[2]))
                    return
    tied = next((known for known, parameter in base.items() if parameter.tied), None)
    if tied is not None and name.endswith("lm_head.weight") and _is_pefts(entry):
        yield MappedTensor(tied, entry)  # `tied_copies.alike` sees to it that the embedding changes alike
        return
    if isinstance(entry, Lora) and entry.up.ndim == 3 and any(".switch_mlp." in known for known in base):
        name = name.replace(".experts.", ".switch_mlp.")  # what mlx-lm calls stacked experts
        for known in _candidates(name):
            if known in base:
                yield MappedTensor(known, entry)
                return
    yield from _fused(name, entry, base)


def _is_pefts(entry: Entry) -> bool:
    return entry.alone if isinstance(entry, Whole) else isinstance(entry, Lora) and entry.side is not None


def _candidates(name: str) -> Iterator[str]:
    for wrapper in _WRAPPERS:
        for inner in _INNER:
            stripped = wrapper + inner
            if name.startswith(stripped):
                for prefix in _PREFIXES:
                    yield prefix + name[len(stripped) :]
    if ".mlp." in name:
        yield from _candidates(name.replace(".mlp.", ".block_sparse_moe."))  # Mixtral's since transformers 5


def _fused(name: str, entry: Entry, base: dict[str, Parameter]) -> Iterator[MappedTensor]:
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
                            "a delta's shape differs from its part of a fused layer",
                            field=name,
                            expected=f"a part of {total} rows",
                            found=f"{count} rows",
                        )
                    yield MappedTensor(known, entry, None, start)
                    return
        elif layer == fused:
            for first in _candidates(f"{parent}{dot}{members[0]}.{leaf}"):
                names = [first.replace(f"{members[0]}.{leaf}", f"{member}.{leaf}") for member in members]
                if all(known in base for known in names):
                    if len(base[first].shape) == 3 and not (isinstance(entry, Lora) and ".switch_mlp." in first):
                        raise TargetError(
                            "which rows of these experts are whose is not known",
                            field=name,
                            expected="experts whose gate is the first half, as Qwen3-MoE's",
                            found=first,
                        )
                    sizes = [(known, _height(base[known].shape)) for known in names]
                    yield from _split(name, entry, sizes)
                    return
    raise TargetError("the base model has no such parameter", field=name, found="a delta for it")


def _split(name: str, entry: Entry, sizes: list[tuple[str, int]]) -> Iterator[MappedTensor]:
    total, found = sum(size for _, size in sizes), rows_of(entry)
    if total != found:
        raise TargetError("a delta has the wrong shape", field=name, expected=total, found=found)
    start = 0
    for known, size in sizes:
        yield MappedTensor(known, take_rows(entry, start, start + size))
        start += size


def describe(placed: MappedTensor) -> str:
    """A few words for an error: the parameter, and which part of it."""
    return placed.parameter if placed.expert is None else f"{placed.parameter}[{placed.expert}]"


def shape_of(entry: Entry) -> tuple[int, ...]:
    """The shape of the parameter that the entry is for."""
    if isinstance(entry, Lora):
        return (*entry.up.shape[:-1], entry.down.shape[-1])
    return tuple(entry.shape if isinstance(entry, DeltaTensor) else entry.values.shape)


def rows_of(entry: Entry) -> int:
    """Number of rows (elements of a vector); 1 for a scalar."""
    return _height(shape_of(entry))


def _height(shape: tuple[int, ...]) -> int:
    return shape[-2] if len(shape) > 1 else (*shape, 1)[0]


def is_zero(entry: Entry) -> bool:
    """Whether the entry changes nothing, whatever the base is."""
    if isinstance(entry, Lora):
        return entry.scale == 0 or not entry.up.any() or not entry.down.any()
    if isinstance(entry, DeltaTensor):
        part = entry.parts[0]
        return not (part.scales[0].any() if isinstance(part, SignPart) else part.values.any())  # type: ignore[union-attr]  # read as signs or dense
    return False


def take_rows(entry: Entry, start: int, stop: int) -> Entry:
    """Rows [start, stop)."""
    if isinstance(entry, Lora):
        return replace(entry, up=entry.up[..., start:stop, :])
    if isinstance(entry, Whole):
        return Whole(entry.values[start:stop], entry.alone)
    part = entry.parts[0]
    if isinstance(part, SignPart):
        scales = part.scales[0][..., start:stop, :] if part.scale == "block" else part.scales[0]
        if part.scale == "row":
            scales = scales[..., start:stop]
        cut = SignPart(part.scale, part.block, part.bits[..., start:stop, :], (scales,))
        return DeltaTensor((*entry.shape[:-2], stop - start, entry.shape[-1]), (cut,))
    return DeltaTensor((stop - start, *entry.shape[1:]), (DensePart(part.values[start:stop]),))  # type: ignore[union-attr]  # read as signs or dense


def join_signs(pieces: Sequence[tuple[int, DeltaTensor]], shape: tuple[int, ...]) -> DeltaTensor:
    """Sign planes of some rows each -> of all: one plane of row scales, or one a piece where inputs have scales too."""
    parts = [(start, tensor.parts[0], tensor.shape[-2]) for start, tensor in pieces]
    out: list[SignPart] = []
    bits = np.zeros((shape[0], parts[0][1].bits.shape[-1]), "<u4")  # type: ignore[union-attr]  # read as signs or dense
    row = np.zeros(shape[0], "<f4")
    for start, part, count in parts:
        assert isinstance(part, SignPart)
        if part.scale == "block":
            raise TargetError(
                "block scales cannot be joined", field="scale", expected="tensor, row, col", found="block"
            )
        own = slice(start, start + count)
        if part.scale != "col":
            bits[own], row[own] = part.bits, part.scales[0]
            continue
        alone, ones = np.zeros_like(bits), np.zeros_like(row)
        alone[own], ones[own] = part.bits, 1
        out.append(SignPart("rowcol", None, alone, (ones, part.scales[0].astype("<f4"))))
    if row.any():
        out.insert(0, SignPart("row", None, bits, (row,)))
    return DeltaTensor(shape, tuple(out))


def stack_signs(pieces: Sequence[tuple[int, DeltaTensor]], shape: tuple[int, ...]) -> DeltaTensor:
    """One sign plane an expert -> one for all; an expert that is not there has scale 0."""
    first = pieces[0][1].parts[0]
    assert isinstance(first, SignPart)
    bits = np.zeros((*shape[:-1], first.bits.shape[-1]), "<u4")
    scales = np.zeros((shape[0], *first.scales[0].shape), "<f4")
    for expert, tensor in pieces:
        part = tensor.parts[0]
        assert isinstance(part, SignPart)
        if (part.scale, part.block) != (first.scale, first.block):
            raise TargetError("experts differ in kind of scale", field="scale", expected=first.scale, found=part.scale)
        bits[expert], scales[expert] = part.bits, part.scales[0]
    return DeltaTensor(shape, (SignPart(first.scale, first.block, bits, (scales,)),))
