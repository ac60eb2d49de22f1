"""Content of a foreign file: deltas as parts, low-rank pairs or whole parameters, under the file's own names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...format.spec import MAX_NAME_BYTES, MAX_TENSORS, DeltaTensor, Fail, show

MAX_JSON_BYTES = 1 << 20

TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "|b1",
}
"""NumPy types of safetensors' names; bfloat16 as its bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An array as it lay in a container. dtype: safetensors' name for it; BF16 is its 16 bits, for NumPy has no such type."""

    dtype: str
    values: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """delta = scale * up @ down: up [E.., N, r], down [E.., r, K], float16 or float32; dtype as it was stored.

    side: `linear`, `embedding`, or None where only the base can tell; then up and down are a linear layer's, and an
    embedding's delta is their product's transpose.
    """

    up: np.ndarray
    down: np.ndarray
    scale: float
    dtype: str
    side: str | None = "linear"


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """The parameter itself after fine-tuning, not its change. alone: what the base ties to it does not follow it."""

    values: np.ndarray
    alone: bool = False


Entry = DeltaTensor | Lora | Whole


@dataclass(frozen=True)
class Foreign:
    """One foreign file. origin: a few words for people. name, base: what it calls itself and its base, or "".

    notes: sentences that whoever imports it should read.
    """

    path: Path
    origin: str
    tensors: dict[str, Entry]
    name: str = ""
    base: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def parameter_name(module: str) -> str:
    """`X` -> `X.weight`: these files name layers, or leave `.weight` away."""
    return module if module.endswith((".weight", ".bias")) else f"{module}.weight"


def check_name(name: object, taken: Collection[str], fail: Fail, limit: int = MAX_TENSORS) -> str:
    """A parameter's name: text, 1 to 1024 bytes, not taken; and there are not too many of them."""
    if not isinstance(name, str):
        fail("a name is not text", field="name", expected="a string", found=type(name).__name__)
    if not 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
        fail("bad name length", field="name", expected=f"1 to {MAX_NAME_BYTES} bytes", found=show(name))
    if name in taken:
        fail("a name occurs twice", field="name", expected="unique names", found=show(name))
    if len(taken) >= limit:
        fail("too many tensors", field="tensors", expected=f"<= {limit}", found=f"> {limit}")
    return name


def floats(stored: Stored, where: str, fail: Fail) -> np.ndarray:
    """The values as float16 or float32, all finite."""
    if stored.dtype == "BF16":
        stored = Stored("F32", (stored.values.astype("<u4") << 16).view("<f4"))
    if stored.values.dtype.kind != "f":
        fail("not a floating-point tensor", field=where, expected="F16, BF16, F32 or F64", found=stored.dtype)
    with np.errstate(over="ignore"):
        values = stored.values if stored.values.dtype == np.float16 else stored.values.astype("<f4", copy=False)
    flat = values.reshape(-1)
    for start in range(0, flat.size, 1 << 20):
        if not np.isfinite(flat[start : start + (1 << 20)]).all():
            fail("a value is not finite", field=where, expected="finite float32 numbers", found="NaN or infinity")
    return values
