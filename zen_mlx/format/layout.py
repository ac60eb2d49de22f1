"""A tensor's parts as the header describes them and the payload stores them: one rule for reader and writer.

part  <->  layout_of(part) + arrays_of(part)  <->  part_of(entry, arrays)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..codec.arrays import DTYPES
from ..codec.factor import FACTOR_BITS, FactorGroup, FactorPart, FactorSide
from ..codec.pack import words
from ..codec.parts import MAX_PARTS, DensePart, Part, RowsPart, SignPart
from ..codec.scales import scale_shapes
from ..config import BLOCK_SIZES, SCALES
from ..fsio import Json
from .spec import Fail, align, show

SEGMENT_ALIGN = 4
_U32 = np.dtype("<u4")
_FIELDS = {
    "sign": {"kind", "dtype", "scale"},
    "dense": {"kind", "dtype"},
    "factor": {"kind", "dtype", "u", "v", "groups"},
    "rows": {"kind", "dtype"},
}


@dataclass(frozen=True, slots=True)
class Segment:
    """One array in the payload, `offset` bytes from its tensor's start.

    rule: what `values.check_numbers` asks of it; `limit`: the bits used in each row of `bits`, the end of row numbers.
    """

    part: int
    role: str
    rule: str
    limit: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    offset: int
    nbytes: int


_Array = tuple[str, str, int, np.dtype[np.generic], tuple[int, ...]]


def segments(layout: Sequence[Json], shape: tuple[int, ...], rows: int | None) -> Iterator[Segment]:
    """The arrays of a tensor in file order, by exact integer arithmetic; nothing is allocated. rows: R, if there is one."""
    offset = 0
    for index, entry in enumerate(layout):
        for role, rule, limit, dtype, dims in _arrays(entry, shape, rows or 0):
            offset = align(offset, SEGMENT_ALIGN)
            nbytes = math.prod(dims) * dtype.itemsize
            yield Segment(index, role, rule, limit, dtype, dims, offset, nbytes)
            offset += nbytes


def _arrays(entry: Json, shape: tuple[int, ...], rows: int) -> Iterator[_Array]:
    dtype = DTYPES[entry["dtype"]]
    if entry["kind"] == "dense":
        yield "dense", "values", 0, dtype, shape
    elif entry["kind"] == "rows":
        yield "rows", "rows", shape[0], _U32, (rows,)
        yield "values", "values", 0, dtype, (rows, shape[-1])
    elif entry["kind"] == "sign":
        yield "bits", "bits", shape[-1], _U32, (*shape[:-1], words(shape[-1]))
        for dims in scale_shapes(entry["scale"], shape, entry.get("block")):
            yield "scales", "scales", 0, dtype, dims
    else:
        *lead, n, k = shape
        for name, length in (("u", n), ("v", k)):
            if entry[name]:
                yield name, "scales", 0, dtype, (*lead, length)
        for index, (bits, rank) in enumerate(entry["groups"]):
            where = f"groups[{index}]"
            if _has_scales(bits):
                yield f"{where}.l", "scales", 0, dtype, (*lead, rank)
            for name, length in (("U", n), ("V", k)):
                if not _has_scales(bits):
                    yield f"{where}.{name}.steps", "scales", 0, DTYPES["f16"], (*lead, rank)
                if bits < 16:
                    yield f"{where}.{name}", "bits", length * bits, _U32, (*lead, rank, words(length * bits))
                else:
                    yield f"{where}.{name}", "values", 0, DTYPES[f"f{bits}"], (*lead, rank, length)


def _has_scales(bits: int) -> bool:
    """Whether a group has l; else its sides have steps."""
    return bits in (1, 16, 32)


def layout_of(part: Part) -> Json:
    """The header's description of `part`."""
    entry: Json = {"kind": "dense", "dtype": part.dtype}
    if isinstance(part, RowsPart):
        entry["kind"] = "rows"
    elif isinstance(part, SignPart):
        entry |= {"kind": "sign", "scale": part.scale}
        if part.block is not None:
            entry["block"] = part.block
    elif isinstance(part, FactorPart):
        groups = [[group.bits, group.rank] for group in part.groups]
        entry |= {"kind": "factor", "u": part.u is not None, "v": part.v is not None, "groups": groups}
    return entry


def arrays_of(part: Part) -> tuple[np.ndarray, ...]:
    """The arrays of `part` in file order."""
    if isinstance(part, SignPart):
        return (part.bits, *part.scales)
    if isinstance(part, DensePart):
        return (part.values,)
    if isinstance(part, RowsPart):
        return (part.rows, part.values)
    arrays = [part.u, part.v]
    for group in part.groups:
        arrays.append(group.scales)
        for side in (group.left, group.right):
            arrays += [side.steps, side.data]
    return tuple(array for array in arrays if array is not None)


def part_of(entry: Json, arrays: Sequence[np.ndarray]) -> Part:
    """The part that `entry` describes, of its arrays in file order."""
    if entry["kind"] == "sign":
        return SignPart(entry["scale"], entry.get("block"), arrays[0], tuple(arrays[1:]))
    if entry["kind"] == "dense":
        return DensePart(arrays[0])
    if entry["kind"] == "rows":
        return RowsPart(arrays[0], arrays[1])
    rest = iter(arrays)
    u, v = (next(rest) if entry[name] else None for name in ("u", "v"))
    groups = []
    for bits, _ in entry["groups"]:
        scales = next(rest) if _has_scales(bits) else None
        left, right = (FactorSide(None if scales is not None else next(rest), next(rest)) for _ in range(2))
        groups.append(FactorGroup(bits, scales, left, right))
    return FactorPart(u, v, tuple(groups))


def row_count(parts: Sequence[Part]) -> int | None:
    """R of the `rows` part among `parts`, None without one."""
    return next((int(part.rows.size) for part in parts if isinstance(part, RowsPart)), None)


def object_bytes(name: str, dims: int, layout: Sequence[Json], arrays: int) -> int:
    """About what a tensor's Python objects take, its payload left out: a million parts of one bit each must not fit."""
    holders = sum(1 + 3 * len(entry.get("groups", ())) for entry in layout)
    return 320 + len(name.encode()) + 16 * dims + 128 * holders + arrays * (100 + 16 * dims)


def check_layout(parts: object, where: str, fail: Fail, unsupported: Fail) -> None:
    """One entry of the layout table: a list of 1 to 16 parts with exactly their fields, at most one of them `rows`."""
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
        fail("bad layout", field=where, expected=f"a list of 1 to {MAX_PARTS} parts", found=show(parts))
    kinds = []
    for index, part in enumerate(parts):
        at = f"{where}[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("kind"), str):
            fail("bad part", field=at, expected="an object with a kind", found=show(part))
        kind = part["kind"]
        if kind not in _FIELDS:
            expected = ", ".join(_FIELDS)
            unsupported("this version cannot read such a part", field=f"{at}.kind", expected=expected, found=show(kind))
        fields = _FIELDS[kind]
        if kind == "sign":
            if not isinstance(part.get("scale"), str) or part["scale"] not in SCALES:
                found = show(part.get("scale"))
                fail("unknown kind of scale", field=f"{at}.scale", expected=", ".join(SCALES), found=found)
            if part["scale"] == "block":
                fields = {*fields, "block"}
                if type(part.get("block")) is not int or part["block"] not in BLOCK_SIZES:
                    fail("bad block size", field=f"{at}.block", expected=BLOCK_SIZES, found=show(part.get("block")))
        if set(part) != fields:
            fail("wrong fields in a part", field=at, expected=sorted(fields), found=show(sorted(part)[:8]))
        if not isinstance(part["dtype"], str) or part["dtype"] not in DTYPES:
            fail("unknown dtype", field=f"{at}.dtype", expected=", ".join(DTYPES), found=show(part["dtype"]))
        if kind == "factor":
            _check_factor(part, at, fail)
        kinds.append(kind)
    if kinds.count("rows") > 1:
        fail("more than one rows part", field=where, expected="one, of all the rows", found=kinds.count("rows"))


def _check_factor(part: Json, at: str, fail: Fail) -> None:
    for name in ("u", "v"):
        if not isinstance(part[name], bool):
            fail("wrong type", field=f"{at}.{name}", expected="true or false", found=show(part[name]))
    groups, last = part["groups"], max(FACTOR_BITS) + 1
    if not isinstance(groups, list) or not 1 <= len(groups) <= len(FACTOR_BITS):
        expected = f"a list of 1 to {len(FACTOR_BITS)} groups"
        fail("bad groups", field=f"{at}.groups", expected=expected, found=show(groups))
    for index, group in enumerate(groups):
        where = f"{at}.groups[{index}]"
        if not isinstance(group, list) or len(group) != 2 or any(type(number) is not int for number in group):
            fail("bad group", field=where, expected="[bits, rank]", found=show(group))
        bits, rank = group
        if bits not in FACTOR_BITS or bits >= last:
            lower = [each for each in FACTOR_BITS if each < last]
            fail("the bits of the groups are invalid or do not decrease", field=where, expected=lower, found=show(bits))
        if rank < 1:
            fail("bad rank", field=where, expected=">= 1", found=show(rank))
        last = bits
    stored = part["u"] or part["v"] or any(_has_scales(bits) for bits, _ in groups)
    if not stored and part["dtype"] != "f16":
        fail("the dtype has no array", field=f"{at}.dtype", expected="f16: no u, v or l is stored", found=part["dtype"])


def check_fits(layout: Sequence[Json], shape: tuple[int, ...], rows: int | None, where: str, fail: Fail) -> None:
    """A tensor of `shape`, and of R = `rows`, can have parts of this checked layout."""
    for entry in layout:
        kind = entry["kind"]
        if kind in ("sign", "factor") and len(shape) < 2:
            fail(f"a {kind} part needs a matrix", field=where, expected="[.., N, K]", found=show(shape))
        if kind == "factor":
            rank = sum(group[1] for group in entry["groups"])
            if rank > min(shape[-2:]):
                fail("the rank exceeds the matrix's", field=where, expected=f"<= {min(shape[-2:])}", found=show(rank))
        if kind == "rows":
            if len(shape) != 2:
                fail("a rows part needs a matrix", field=where, expected="[N, K]", found=show(shape))
            if rows is None or not 1 <= rows <= shape[0]:
                fail("bad number of rows", field=where, expected=f"1 to {shape[0]}", found=show(rows))
