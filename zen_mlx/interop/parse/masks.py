"""Packed masks and their coefficients -> one sign part each: the public BitDelta code's, and the per-axis variant's.

    X.mask      int32 [in/32, out], bit i of word w = input 32 w + i, 1 is +1;  X.coeff: one number
    X.mask_row  the same, with X.coeff_row [in]: a number for each input
    X.mask_col  the same, with X.coeff_col [out]: a number for each output

Everything else in such a file is a parameter in full. A negative coefficient is its size with the signs turned round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...codec.pack import pack_signs
from ...codec.parts import SignPart
from ...format.spec import MAX_DIM, DeltaTensor, Fail, show
from .foreign import Entry, Stored, Whole, check_name, floats, parameter_name

_MASKS = {".mask": ".coeff", ".mask_row": ".coeff_row", ".mask_col": ".coeff_col"}
PUBLIC, PER_AXIS = "public BitDelta", "per-axis deltas"


def has_masks(arrays: Mapping[str, Stored]) -> bool:
    """Whether these are the arrays of such a file."""
    return any(name.endswith(tuple(_MASKS)) for name in arrays)


def read_masks(arrays: dict[str, Stored], fail: Fail) -> tuple[str, dict[str, Entry]]:
    """(origin, entries); empties `arrays`."""
    names = sorted(name for name in arrays if name.endswith(tuple(_MASKS)))
    origin = PUBLIC if all(name.endswith(".mask") for name in names) else PER_AXIS
    out: dict[str, Entry] = {}
    layers: dict[str, str] = {}
    for name in names:
        layer, _, suffix = name.rpartition(".")
        if layer in layers:
            fail("one layer has two masks", field=show(layer), expected="one", found=f"{layers[layer]}, {suffix}")
        layers[layer] = suffix
        check_name(parameter_name(layer), out, fail)
        mask, coeff = arrays.pop(name), arrays.pop(layer + _MASKS[f".{suffix}"], None)
        if coeff is None:
            fail("a mask has no coefficient", field=show(name), expected=_MASKS[f".{suffix}"], found="none")
        out[parameter_name(layer)] = _part(name, suffix, mask, floats(coeff, show(name), fail), fail)
    for layer in layers:
        arrays.pop(f"{layer}.coeff", None)
    for name in sorted(arrays):
        if name.rpartition(".")[2] in ("coeff", "coeff_row", "coeff_col"):
            fail("a coefficient has no mask", field=show(name), expected="a mask", found="none")
        check_name(name, out, fail)
        out[name] = Whole(floats(arrays.pop(name), show(name), fail))
    return origin, out


def _part(name: str, suffix: str, mask: Stored, coeff: np.ndarray, fail: Fail) -> DeltaTensor:
    if mask.dtype != "I32" or mask.values.ndim != 2:
        found = f"{mask.dtype} {mask.values.shape}"
        fail("unsupported kind of mask", field=show(name), expected="I32 [in/32, out]", found=found)
    words, outputs = mask.values.shape
    inputs = 32 * words
    if max(inputs, outputs) > MAX_DIM:
        fail("bad dimension", field=show(name), expected=f"<= {MAX_DIM}", found=max(inputs, outputs))
    bits = np.ascontiguousarray(mask.values.T).view("<u4")
    wanted = {"mask": 1, "mask_row": inputs, "mask_col": outputs}[suffix]
    if coeff.size != wanted or (suffix != "mask" and coeff.ndim != 1):
        fail("wrong number of coefficients", field=show(name), expected=wanted, found=str(coeff.shape))
    scales = coeff.astype("<f4").reshape(() if suffix == "mask" else -1)
    negative = scales < 0
    if suffix == "mask_row" and negative.any():
        bits = bits ^ pack_signs(np.where(negative, np.float32(1), np.float32(-1))[None])
    elif suffix != "mask_row" and negative.any():
        bits = np.where(np.atleast_1d(negative)[:, None], ~bits, bits)
    scale = {"mask": "tensor", "mask_row": "col", "mask_col": "row"}[suffix]
    return DeltaTensor((outputs, inputs), (SignPart(scale, None, bits, (np.abs(scales),)),))
