"""Rows of a foreign delta: how many there are, some of them, and several put together as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..codec.parts import DensePart, SignPart
from ..errors import TargetError
from ..format.foreign.spec import Entry, Lora, Whole
from ..format.spec import DeltaTensor


def shape_of(entry: Entry) -> tuple[int, ...]:
    """The shape of the parameter that the entry is for."""
    if isinstance(entry, Lora):
        return (*entry.up.shape[:-1], entry.down.shape[-1])
    return tuple(entry.shape if isinstance(entry, DeltaTensor) else entry.values.shape)


def rows_of(entry: Entry) -> int:
    """Number of rows (elements of a vector); 1 for a scalar."""
    shape = shape_of(entry)
    return shape[-2] if len(shape) > 1 else (*shape, 1)[0]


def is_zero(entry: Entry) -> bool:
    """Whether the entry changes nothing, whatever the base is."""
    if isinstance(entry, Lora):
        return entry.scale == 0 or not entry.up.any() or not entry.down.any()
    if isinstance(entry, DeltaTensor):
        part = entry.parts[0]
        return not (part.scales[0].any() if isinstance(part, SignPart) else part.values.any())  # type: ignore[union-attr]
    return False


def take_rows(entry: Entry, start: int, stop: int) -> Entry:
    """Rows [start, stop)."""
    if isinstance(entry, Lora):
        return replace(entry, up=entry.up[..., start:stop, :])
    if isinstance(entry, Whole):
        return Whole(entry.values[start:stop])
    part = entry.parts[0]
    if isinstance(part, SignPart):
        scales = part.scales[0][..., start:stop, :] if part.scale == "block" else part.scales[0]
        if part.scale == "row":
            scales = scales[..., start:stop]
        cut = SignPart(part.scale, part.block, part.bits[..., start:stop, :], (scales,))
        return DeltaTensor((*entry.shape[:-2], stop - start, entry.shape[-1]), (cut,))
    return DeltaTensor((stop - start, *entry.shape[1:]), (DensePart(part.values[start:stop]),))  # type: ignore[union-attr]


def join_signs(pieces: Sequence[tuple[int, DeltaTensor]], shape: tuple[int, ...]) -> DeltaTensor:
    """Sign planes of some rows each -> of all: one plane of row scales, or one a piece where inputs have scales too."""
    parts = [(start, tensor.parts[0], tensor.shape[-2]) for start, tensor in pieces]
    out: list[SignPart] = []
    bits = np.zeros((shape[0], parts[0][1].bits.shape[-1]), "<u4")  # type: ignore[union-attr]
    row = np.zeros(shape[0], "<f4")
    for start, part, count in parts:
        assert isinstance(part, SignPart)
        if part.scale == "block":
            raise TargetError(
                "block scales cannot be joined", field="scale", expected="tensor, row or col", found="block"
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
            raise TargetError(
                "experts with different kinds of scale", field="scale", expected=first.scale, found=part.scale
            )
        bits[expert], scales[expert] = part.bits, part.scales[0]
    return DeltaTensor(shape, (SignPart(first.scale, first.block, bits, (scales,)),))
