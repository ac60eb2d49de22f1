"""Version 1 reader, the whitepaper's Appendix A: blocks of signs with f32 scales, no digest.

A block becomes a part: 1 scale -> `tensor`, shape[0] -> `row`, one per 128 columns -> `block`; a vector -> dense;
blocks `X.weight.0` to `X.weight.E-1` of equal shape -> one tensor [E, N, K].
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..codec.pack import words
from ..codec.parts import DensePart, SignPart
from ..codec.scales import scale_shapes
from ..fsio import Json
from .flat_bits import read_exactly, read_rows
from .payload import check_scales
from .source import Cursor
from .spec import (
    MAX_COUNT,
    MAX_DIM,
    MAX_DIMS,
    MAX_NAME_BYTES,
    MAX_OBJECT_BYTES,
    MAX_TENSORS,
    MAX_TEXT,
    DeltaTensor,
    Fail,
    Header,
    Profile,
    TensorInfo,
    show,
)

BLOCK = 128
_KINDS = ("tensor", "row", "block")
_EXPERT = re.compile(r"(.*\.weight)\.(0|[1-9][0-9]{0,4})", re.DOTALL)
_BLOCK_OBJECT_BYTES = 800
"""About what a block's Python objects take."""
_DENSE_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class _Block:
    shape: tuple[int, ...]
    kind: str
    bits_at: int
    scales_at: int
    scale_count: int

    @property
    def nbytes(self) -> int:
        return 4 * self.scale_count + -(-math.prod(self.shape) // 8)


@dataclass(frozen=True, slots=True)
class _Group:
    """A tensor: one block, or a run of experts' blocks with an axis in front."""

    shape: tuple[int, ...]
    blocks: list[_Block]

    @property
    def kind(self) -> str:
        """The richest kind of scale among the blocks: the others can be written in it."""
        return max((block.kind for block in self.blocks), key=_KINDS.index)

    @property
    def memory_bytes(self) -> int:
        """What the parts will take."""
        if len(self.shape) == 1:
            return 4 * self.shape[0]
        block = BLOCK if self.kind == "block" else None
        shapes = [(*self.shape[:-1], words(self.shape[-1])), *scale_shapes(self.kind, self.shape, block)]
        return sum(4 * math.prod(shape) for shape in shapes)


def read(fd: int, size: int, path: Path, fail: Fail, unsupported: Fail) -> Profile:
    """The profile in the version 1 file `fd` of `size` bytes. `base` is {"verified": False}: the file names no base."""
    facts, groups = _scan(fd, size, path, fail, unsupported)
    # A shape such as [N, 1] grows 32 times when its rows are given whole words.
    memory_bytes = sum(group.memory_bytes for group in groups.values())
    memory_bytes += sum(_BLOCK_OBJECT_BYTES * len(group.blocks) for group in groups.values())
    limit = size + MAX_OBJECT_BYTES
    if memory_bytes > limit:
        unsupported("the rows are too narrow", field="shape", expected=f"<= {limit} bytes", found=memory_bytes)
    tensors = {}
    for name in list(groups):
        group = groups.pop(name)
        part = _dense(fd, name, group, fail) if len(group.shape) == 1 else _sign(fd, name, group, fail)
        tensors[name] = DeltaTensor(group.shape, (part,))
    return Profile(tensors=tensors, **facts)


def read_header(fd: int, size: int, path: Path, fail: Fail, unsupported: Fail) -> Header:
    """The facts, and for each tensor its shape, layout, first byte in the file and bytes of signs and scales."""
    facts, groups = _scan(fd, size, path, fail, unsupported)
    tensors = {}
    for name, group in groups.items():
        layout: Json = {"kind": "dense", "dtype": "f32"}
        if len(group.shape) > 1:
            layout = {"kind": "sign", "scale": group.kind, "dtype": "f32"}
            if group.kind == "block":
                layout["block"] = BLOCK
        nbytes = sum(block.nbytes for block in group.blocks)
        tensors[name] = TensorInfo(group.shape, (layout,), group.blocks[0].bits_at, nbytes)
    return Header(tensors=tensors, **facts)


def _scan(fd: int, size: int, path: Path, fail: Fail, unsupported: Fail) -> tuple[Json, dict[str, _Group]]:
    """(facts, tensors) by skipping over the data. Every length is checked against the file's."""
    cursor = Cursor(fd, size, fail)
    model = cursor.text("model name", MAX_TEXT)
    ratio, count = struct.unpack("<fQ", cursor.take(12, "compression ratio"))
    if not (math.isfinite(ratio) and ratio >= 0):
        fail("bad number", field="compression ratio", expected="a finite number >= 0", found=str(ratio))
    blocks: dict[str, _Block] = {}
    while not cursor.ended:
        name = cursor.text(f"name of block {len(blocks)}", MAX_NAME_BYTES)
        if not name or name in blocks:
            fail("a block's name is empty or occurs twice", field="name", expected="unique names", found=show(name))
        if len(blocks) == MAX_TENSORS:
            fail("too many blocks", field="blocks", expected=f"<= {MAX_TENSORS}", found=f"> {MAX_TENSORS}")
        blocks[name] = _scan_block(cursor, name, fail)
    if not blocks:
        fail("the file has no blocks", field="blocks", expected=">= 1", found=0)
    elements = sum(math.prod(block.shape) for block in blocks.values())
    if elements != count:
        fail("the blocks hold the wrong number of elements", field="parameter count", expected=count, found=elements)
    # The ratio is the only trace of the whole model's size; one that makes no sense counts as unknown.
    model_count = round(ratio * size / 4)
    facts = {
        "info": {"name": model},
        "base": {"verified": False},
        "metrics": {},
        "target_count": count,
        "model_count": model_count if count <= model_count <= MAX_COUNT else count,
        "version": 1,
        "path": path,
        "file_bytes": size,
        "sha256": None,
    }
    return facts, _group(blocks)


def _scan_block(cursor: Cursor, name: str, fail: Fail) -> _Block:
    where = show(name)
    dims = cursor.u32(f"{where}.ndim")
    if not 1 <= dims <= MAX_DIMS:
        fail("bad shape", field=f"{where}.ndim", expected=f"1 to {MAX_DIMS}", found=dims)
    shape = struct.unpack(f"<{dims}I", cursor.take(4 * dims, f"{where}.shape"))
    for dim in shape:
        if not 1 <= dim <= MAX_DIM:
            fail("bad dimension", field=f"{where}.shape", expected=f"1 to {MAX_DIM}", found=dim)
    numel = math.prod(shape)
    bits_at = cursor.skip(-(-numel // 8) - 1, f"{where}.bits")
    if cursor.take(1, f"{where}.bits")[0] >> ((numel - 1) % 8 + 1):
        fail("pad bits are set", field=f"{where}.bits", expected=0, found="a bit past the last element")
    count = cursor.u32(f"{where}.scales")
    by_block = math.prod(shape[:-1]) * -(-shape[-1] // BLOCK)
    if count == 1:
        kind = "tensor"
    elif count == shape[0]:
        kind = "row" if len(shape) <= 2 else "tensor"
    elif count == by_block:
        kind = "block" if shape[-1] > BLOCK else "row"
    else:
        fail("wrong number of scales", field=f"{where}.scales", expected=f"1, {shape[0]} or {by_block}", found=count)
    return _Block(shape, kind, bits_at, cursor.skip(4 * count, f"{where}.scales"), count)


def _group(blocks: dict[str, _Block]) -> dict[str, _Group]:
    """Tensors in file order; a complete run of experts of equal shape becomes one, at its first expert's place."""
    runs: dict[str, dict[int, _Block]] = {}
    for name, block in blocks.items():
        match = _EXPERT.fullmatch(name)
        if match:
            runs.setdefault(match[1], {})[int(match[2])] = block
    whole = {
        name
        for name, run in runs.items()
        if name not in blocks
        and sorted(run) == list(range(len(run)))
        and len({block.shape for block in run.values()}) == 1
        and len(run[0].shape) == 2
    }
    out: dict[str, _Group] = {}
    for name, block in blocks.items():
        match = _EXPERT.fullmatch(name)
        if match and match[1] in whole:
            if match[1] not in out:
                run = runs[match[1]]
                out[match[1]] = _Group((len(run), *block.shape), [run[index] for index in range(len(run))])
        else:
            out[name] = _Group(block.shape, [block])
    return out


def _scales(fd: int, name: str, block: _Block, fail: Fail) -> np.ndarray:
    data = read_exactly(fd, block.scales_at, 4 * block.scale_count)
    if data is None:
        fail("the file shrank during reading", field=show(name), expected="scales", found="end of file")
    scales = np.frombuffer(data, dtype="<f4")
    check_scales(scales, f"{show(name)}.scales", fail)
    return scales


def _lift(scales: np.ndarray, block: _Block, kind: str) -> np.ndarray:
    """The block's scales written as the richer `kind`, flat."""
    rows = math.prod(block.shape[:-1])
    wanted = {"tensor": math.prod(block.shape[:-2]), "row": rows, "block": rows * -(-block.shape[-1] // BLOCK)}[kind]
    return np.repeat(scales, wanted // len(scales))


def _sign(fd: int, name: str, group: _Group, fail: Fail) -> SignPart:
    columns = group.shape[-1]
    bits = np.zeros((math.prod(group.shape[:-1]), 4 * words(columns)), dtype=np.uint8)
    kind = group.kind
    block_size = BLOCK if kind == "block" else None
    (dims,) = scale_shapes(kind, group.shape, block_size)
    scales = np.empty(math.prod(dims), dtype=np.float32)
    row = at = 0
    for block in group.blocks:
        rows = math.prod(block.shape[:-1])
        if not read_rows(fd, block.bits_at, columns, bits[row : row + rows]):
            fail("the file shrank during reading", field=show(name), expected="signs", found="end of file")
        row += rows
        lifted = _lift(_scales(fd, name, block, fail), block, kind)
        scales[at : at + len(lifted)] = lifted
        at += len(lifted)
    packed = bits.view("<u4").reshape(*group.shape[:-1], words(columns))
    return SignPart(kind, block_size, packed, (scales.reshape(dims),))


def _dense(fd: int, name: str, group: _Group, fail: Fail) -> DensePart:
    """A vector: sign[i] * scale[i], a few elements at a time."""
    (block,), (count,) = group.blocks, group.shape
    scales = _scales(fd, name, block, fail)
    values = np.empty(count, dtype=np.float32)
    for start in range(0, count, _DENSE_STEP):
        some = values[start : start + _DENSE_STEP]
        data = read_exactly(fd, block.bits_at + start // 8, -(-len(some) // 8))
        if data is None:
            fail("the file shrank during reading", field=show(name), expected="signs", found="end of file")
        some[:] = np.unpackbits(np.frombuffer(data, np.uint8), count=len(some), bitorder="little")
        some *= 2
        some -= 1
        if len(scales) == count:
            some *= scales[start : start + len(some)]
        elif len(scales) == 1:
            some *= scales[0]
        else:
            some *= scales[np.arange(start, start + len(some)) // BLOCK]
    return DensePart(values)
