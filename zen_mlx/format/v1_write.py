"""Profile -> version 1 bytes: exact for one plane with tensor, row or block-128 scales and for vectors.

Of anything richer it keeps what the format can hold and says what it lost:

    rowcol          sign, and a[n] = row[n] * mean_k col[k]
    everything else sign and row mean of the reconstructed delta
    [E.., N, K]     one block NAME.i for each of the E.. matrices
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ..codec.pack import pack_signs
from ..codec.parts import SignPart, decode_all
from ..codec.scales import fit_scales
from .flat_bits import write_rows
from .layout import arrays_of, layout_of, part_of
from .spec import MAGIC, MAX_TENSORS, DeltaTensor, Fail, Profile
from .v1_read import BLOCK

_LOST = {
    "rowcol": "row-by-column scales became row scales (row times the mean of the columns)",
    "other": "richer parts became one sign plane with the row means of the delta",
    "axes": "more than one leading axis was flattened into one",
}


def write_v1(profile: Profile, names: list[str], file: BinaryIO, fail: Fail) -> list[str]:
    """Write the tensors `names` to `file`; return one sentence for each thing that was lost."""
    if not names:
        fail("version 1 needs at least one tensor", field="tensors", expected=">= 1", found=0)
    model = profile.info["name"].encode()
    file.write(MAGIC + struct.pack("<III", 1, 0, len(model)) + model)
    ratio_at = file.tell()
    file.write(bytes(12))
    lost: Counter[str] = Counter()
    taken: set[str] = set()
    count = 0
    for name in names:
        for block_name, tensor in _matrices(name, profile.tensors[name], lost):
            if block_name in taken:
                fail("two tensors have one name", field=name, expected="unique names", found=block_name)
            taken.add(block_name)
            if len(taken) > MAX_TENSORS:
                fail("too many blocks", field="tensors", expected=f"<= {MAX_TENSORS}", found=len(taken))
            _write_block(block_name, tensor, file)
            count += math.prod(tensor.shape)
        kind = _loss(profile.tensors[name])
        if kind:
            lost[kind] += 1
    file_bytes = file.tell()
    file.seek(ratio_at)
    file.write(struct.pack("<fQ", 4 * profile.model_count / file_bytes, count))
    out = [f"{number} tensor{'s' * (number > 1)}: {_LOST[kind]}." for kind, number in sorted(lost.items())]
    dropped = [key for key in ("base", "metrics") if any(key_ != "verified" for key_ in getattr(profile, key))]
    facts = [f"`{key}`" for key in dropped] + [f"`profile.{key}`" for key in sorted(profile.info) if key != "name"]
    if facts:
        out.append(f"Version 1 cannot store {', '.join(facts)}.")
    return out


def _loss(tensor: DeltaTensor) -> str | None:
    """The key of `_LOST` for a tensor that version 1 cannot hold exactly."""
    if len(tensor.shape) == 1 or _is_exact(tensor):
        return None
    (*_, last) = tensor.parts
    return "rowcol" if len(tensor.parts) == 1 and isinstance(last, SignPart) and last.scale == "rowcol" else "other"


def _is_exact(tensor: DeltaTensor) -> bool:
    first = tensor.parts[0]
    return (
        len(tensor.parts) == 1
        and isinstance(first, SignPart)
        and (first.scale in ("tensor", "row") or (first.scale == "block" and first.block == BLOCK))
    )


def _matrices(name: str, tensor: DeltaTensor, lost: Counter[str]) -> Iterator[tuple[str, DeltaTensor]]:
    """The tensor itself, or each matrix of [E.., N, K]."""
    if len(tensor.shape) <= 2:
        yield name, tensor
        return
    lead, shape = tensor.shape[:-2], tensor.shape[-2:]
    if len(lead) > 1:
        lost["axes"] += 1
    for number, index in enumerate(np.ndindex(*lead)):
        parts = (
            part_of(layout_of(part), [np.asarray(array[index]) for array in arrays_of(part)]) for part in tensor.parts
        )
        yield f"{name}.{number}", DeltaTensor(shape, tuple(parts))


def _write_block(name: str, tensor: DeltaTensor, file: BinaryIO) -> None:
    bits, scales = _signs_and_scales(tensor)
    raw, shape = name.encode(), tensor.shape
    file.write(struct.pack("<I", len(raw)) + raw + struct.pack(f"<{len(shape) + 1}I", len(shape), *shape))
    write_rows(bits.reshape(-1, bits.shape[-1]), shape[-1], file)
    file.write(struct.pack("<I", scales.size))
    file.write(np.ascontiguousarray(scales, dtype="<f4").reshape(-1).data)


def _signs_and_scales(tensor: DeltaTensor) -> tuple[np.ndarray, np.ndarray]:
    first = tensor.parts[0]
    if isinstance(first, SignPart) and _is_exact(tensor):
        return first.bits, first.scales[0]
    if len(tensor.parts) == 1 and isinstance(first, SignPart) and first.scale == "rowcol":
        row, col = (array.astype(np.float32) for array in first.scales)
        return first.bits, row * col.mean(dtype=np.float64).astype(np.float32)
    delta = decode_all(tensor.parts, tensor.shape)
    if delta.ndim == 1:
        return pack_signs(delta), np.abs(delta)
    # A lone plane keeps its own bits: where its scale is 0 the delta says nothing of the sign.
    lone = len(tensor.parts) == 1 and isinstance(first, SignPart)
    return first.bits if lone and isinstance(first, SignPart) else pack_signs(delta), fit_scales(delta, "row")[0]
