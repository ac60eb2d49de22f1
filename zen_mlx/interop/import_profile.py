"""LoRA import, and import of every other foreign file: (file, base) -> the tensors of a profile, without loss.

a low-rank pair   factor of 16 bits where float16 holds every value exactly, else 32; dense past the rank of a matrix
signs             as they are, scales in f32
a whole parameter its difference from the base's: rows where few changed, else dense; f16 where that is exact

The profile is unverified: such files do not say which weights they were made for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..adapter.targets import model_count, target_count
from ..base.build import build
from ..base.loaded import base_info
from ..base.pull import pull
from ..codec.factor import FactorGroup, FactorPart, FactorSide
from ..codec.parts import DensePart, Part, RowsPart, SignPart
from ..encode.closed_form import has_few_rows, row_peaks
from ..encode.lazy_weights import Reader, lazy_reader
from ..errors import InputError, TargetError
from ..events import Progress
from ..format.spec import MAX_TEXT, DeltaTensor, Profile, now, profile_info
from .name_mapping import (
    MappedTensor,
    Parameter,
    describe,
    is_zero,
    join_signs,
    map_name,
    parameters,
    shape_of,
    stack_signs,
)
from .parse.detect import read_foreign
from .parse.foreign import Entry, Foreign, Lora, Whole
from .tied_copies import alike, is_copy


def import_tensors(foreign: Foreign, base: dict[str, Parameter], base_of: Reader) -> dict[str, DeltaTensor]:
    """The deltas by the base's names; `base_of` gives a parameter as f32 and is asked for whole ones only.

    TargetError: a name or shape the base does not have. InputError: nothing would change.
    """
    try:
        out = {name: tensor for name, tensor in _tensors(foreign, base, base_of) if tensor is not None}
    except TargetError as error:
        error.path = str(foreign.path)
        error.hint = error.hint or "-m names another base" + (f"; the file says {foreign.base}" if foreign.base else "")
        raise
    if not out:
        raise InputError("the file changes nothing in this base", path=foreign.path)
    return out


def _tensors(foreign: Foreign, base: dict[str, Parameter], base_of: Reader) -> Iterator[tuple[str, DeltaTensor | None]]:
    placed: dict[str, list[MappedTensor]] = {}
    for name, entry in foreign.tensors.items():
        if not is_zero(entry):
            for one in map_name(name, entry, base):
                placed.setdefault(one.parameter, []).append(one)
    for name, found in placed.items():
        parameter = base[name]
        pieces, reader = alike(name, found, parameter, base_of)
        entries = [_turned(one, parameter) for one in pieces]
        _check_shapes(pieces, entries, parameter)
        whole = len(pieces) == 1 and pieces[0].expert is None and pieces[0].start is None
        if all(isinstance(entry, Lora) for entry in entries):
            yield name, _low_rank(pieces, entries, parameter.shape)  # type: ignore[arg-type]  # checked
        elif all(isinstance(entry, Whole) for entry in entries):
            yield name, _changed(name, pieces, entries, parameter, reader, whole)  # type: ignore[arg-type]  # checked
        elif is_copy(pieces[0]) and len(pieces) == 2 and isinstance(entries[1], Lora):
            copied = _changed(name, pieces[:1], [entries[0]], parameter, reader, True)  # type: ignore[list-item]  # checked
            yield name, _sum(_low_rank(pieces[1:], [entries[1]], parameter.shape), copied)
        elif whole and isinstance(entries[0], DeltaTensor):
            yield name, entries[0]
        elif all(isinstance(entry, DeltaTensor) and isinstance(entry.parts[0], SignPart) for entry in entries):
            join = stack_signs if pieces[0].expert is not None else join_signs
            keyed = [(one.expert or one.start or 0, entry) for one, entry in zip(pieces, entries, strict=True)]
            yield name, join(keyed, parameter.shape)  # type: ignore[arg-type]  # checked
        else:
            raise TargetError("one parameter's deltas differ in kind", field=name, expected="one kind", found="several")


def _sum(low: DeltaTensor, copied: DeltaTensor | None) -> DeltaTensor:
    return low if copied is None else DeltaTensor(low.shape, (*low.parts, *copied.parts))


def _turned(one: MappedTensor, parameter: Parameter) -> Entry:
    """The entry as the base's parameter lies: an embedding's pair is the other way round where the file could not tell."""
    entry = one.entry
    if isinstance(entry, Lora) and parameter.embedding and entry.side is None:
        return Lora(entry.down.swapaxes(-1, -2), entry.up.swapaxes(-1, -2), entry.scale, entry.dtype, "embedding")
    return entry


def _check_shapes(pieces: list[MappedTensor], entries: list[Entry], parameter: Parameter) -> None:
    """Every piece fits its part of the parameter, and no two pieces overlap."""
    taken: set[int] = set()
    paired = len(pieces) == 2 and is_copy(pieces[0]) and isinstance(entries[1], Lora)
    for one, entry in zip(pieces, entries, strict=True):
        found, expected = shape_of(entry), parameter.shape
        if one.expert is not None:
            expected = expected[1:]
            spans = range(one.expert, one.expert + 1)
            fits = found == expected and one.expert < parameter.shape[0]
        elif one.start is not None:
            fits = found[1:] == expected[1:] and len(found) == len(expected)
            spans = range(one.start, one.start + found[0])
        else:
            grown = isinstance(entry, Whole) and parameter.grows and len(found) == 2
            fits = found == expected or (grown and found[1:] == expected[1:] and found[0] > expected[0])
            spans = range(parameter.shape[0] if parameter.shape else 1)
        if not fits:
            raise TargetError("a delta has the wrong shape", field=describe(one), expected=expected, found=found)
        if not taken.isdisjoint(spans) and not paired:
            raise TargetError("one parameter has two deltas", field=describe(one), expected="one", found="more")
        taken.update(spans)


def _low_rank(pieces: list[MappedTensor], pairs: list[Lora], shape: tuple[int, ...]) -> DeltaTensor:
    """Pairs of one parameter side by side: of some rows each, or of an expert each."""
    *lead, n, k = shape
    experts = pieces[0].expert is not None
    ranks = [pair.up.shape[-1] for pair in pairs]
    rank = max(ranks) if experts else sum(ranks)
    up, down = np.zeros((*lead, n, rank), "<f4"), np.zeros((*lead, rank, k), "<f4")
    scales = np.zeros((*lead, rank), "<f4")
    at = 0
    for one, pair, r in zip(pieces, pairs, ranks, strict=True):
        sign = -1 if pair.scale < 0 else 1
        if experts:
            up[one.expert, :, :r], down[one.expert, :r] = sign * pair.up, pair.down
            scales[one.expert, :r] = abs(pair.scale)
            continue
        start = one.start or 0
        up[..., start : start + pair.up.shape[-2], at : at + r] = sign * pair.up
        down[..., at : at + r, :], scales[..., at : at + r] = pair.down, abs(pair.scale)
        at += r
    if rank > min(n, k):
        product = (up.astype(np.float64) * scales[..., None, :]) @ down.astype(np.float64)
        return DeltaTensor(shape, (_exact(product.astype("<f4")),))
    narrow = _fits(up) and _fits(down)
    dtype = "<f2" if narrow else "<f4"
    left = FactorSide(None, np.ascontiguousarray(up.swapaxes(-1, -2), dtype))
    right = FactorSide(None, np.ascontiguousarray(down, dtype))
    l_dtype = "<f2" if _fits(scales) else "<f4"
    group = FactorGroup(16 if narrow else 32, scales.astype(l_dtype), left, right)
    return DeltaTensor(shape, (FactorPart(None, None, (group,)),))


def _changed(
    name: str, pieces: list[MappedTensor], wholes: list[Whole], parameter: Parameter, base_of: Reader, whole: bool
) -> DeltaTensor | None:
    """The parameter's difference from the base's, None where there is none."""
    base = np.asarray(base_of(name))
    tuned = wholes[0].values.astype("<f4")
    if not whole:
        tuned = base.copy()
        for one, entry in zip(pieces, wholes, strict=True):
            if one.expert is not None:
                tuned[one.expert] = entry.values
            else:
                start = one.start or 0
                tuned[start : start + len(entry.values)] = entry.values
    grown = len(tuned) > len(base) if tuned.ndim else False
    if grown:
        base = np.concatenate([base, np.zeros((len(tuned) - len(base), *base.shape[1:]), "<f4")])
    delta = tuned - base
    if not delta.any():
        return None
    peaks = row_peaks(delta)
    if not np.isfinite(peaks).all():
        raise TargetError("a difference overflows float32", field=name, expected="finite numbers", found="infinity")
    if grown or has_few_rows(delta.shape, peaks):
        rows = np.flatnonzero(delta.any(axis=1))
        values = _exact(delta[rows]).values
        return DeltaTensor(delta.shape, (RowsPart(rows.astype("<u4"), values),))
    parts: tuple[Part, ...] = (_exact(delta),)
    return DeltaTensor(delta.shape, parts)


def _fits(values: np.ndarray) -> bool:
    """Whether float16 holds every value exactly."""
    with np.errstate(over="ignore"):
        return bool((values.astype("<f2").astype("<f4") == values).all())


def _exact(values: np.ndarray) -> DensePart:
    return DensePart(values.astype("<f2") if _fits(values) else values)


def foreign_info(foreign: Foreign, name: str) -> dict[str, Any]:
    """The `profile` object of a header, with where the profile came from."""
    method = "lora" if any(isinstance(entry, Lora) for entry in foreign.tensors.values()) else "import"
    dtype = {"adapter_dtype": foreign.facts["dtype"]} if "dtype" in foreign.facts else {}
    note = {"import_note": "; ".join(foreign.notes)[:MAX_TEXT]} if foreign.notes else {}
    return {**profile_info(name, now(), method), "origin": foreign.origin, **dtype, **note}


def default_name(foreign: Foreign) -> str:
    """A name for the profile: the file's own, else its name on disk, in the letters a name may have."""
    at = foreign.path.parent if foreign.path.name in _GENERIC else foreign.path
    text = foreign.name or (Path(at).name if at is not foreign.path else at.stem)
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)[:64].strip(".-_")


_GENERIC = ("adapters.safetensors", "adapter_model.safetensors", "adapter_model.bin", "diff.pt")


@dataclass(frozen=True)
class OpenedBase:
    """What an import asks of a base. base_of: reads a parameter as f32, once; header: of the profiles that are made for it."""

    header: Mapping[str, Any]
    parameters: dict[str, Parameter]
    base_of: Reader
    target_count: int
    model_count: int

    @classmethod
    def of(cls, name: str, model: nn.Module) -> OpenedBase:
        """The base `name`, of which `model` is built and not read; a caller who keeps `model` keeps what is read."""
        whole = base_info(name).header()
        header = {"model": whole["model"], "architecture": whole["architecture"], "verified": False}
        return cls(header, parameters(model), lazy_reader(model)[1], target_count(model), model_count(model))


def foreign_profile(path: str | os.PathLike[str], base_name: str, on_pull: Progress | None = None) -> Profile:
    """The profile that the file or adapter folder at `path` is for the base `base_name`; nothing is lost or saved.

    The base's weights are not loaded: its names and shapes are compared, and parameters that the file holds whole are
    read one at a time. Errors: FormatError, UnsupportedFormat, TargetError, InputError.
    """
    foreign = read_foreign(path)  # before a base is fetched for what may be no such file
    return profile_of(foreign, OpenedBase.of(base_name, build(pull(base_name, on_pull))))


def profile_of(foreign: Foreign, base: OpenedBase) -> Profile:
    """The profile that `foreign` is for `base`; errors as `import_tensors`."""
    tensors = import_tensors(foreign, base.parameters, base.base_of)
    mx.clear_cache()
    return Profile(
        info=foreign_info(foreign, default_name(foreign)),
        base=dict(base.header),
        metrics={},
        target_count=base.target_count,
        model_count=base.model_count,
        tensors=tensors,
    )
