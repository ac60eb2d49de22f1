"""LoRA adapters: arrays and adapter_config.json -> low-rank pairs with their scale. mlx-lm's here, PEFT's in peft.py.

mlx-lm  X.lora_a [K, r], X.lora_b [r, N]; experts [E, r, K], [E, N, r]; scale = lora_parameters.scale
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from ...format.spec import Fail, show
from ...fsio import Json
from .foreign import Entry, Lora, Stored, Whole, check_name, floats

_MAX_SCALE = 1e30


def is_mlx_adapter(arrays: Mapping[str, Stored]) -> bool:
    """Whether these are the arrays of an mlx-lm adapter."""
    return any(name.endswith((".lora_a", ".lora_b")) for name in arrays)


def read_mlx(arrays: dict[str, Stored], config: Json, fail: Fail, unsupported: Fail) -> dict[str, Entry]:
    """The entries of an mlx-lm adapter; empties `arrays`."""
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        return {name: Whole(floats(arrays.pop(name), show(name), fail)) for name in sorted(arrays)}
    if kind != "lora" or config.get("use_dora"):
        unsupported("not a plain LoRA", field="adapter_config.fine_tune_type", expected="lora", found=show(kind))
    table = config.get("lora_parameters")
    table = table if isinstance(table, dict) else {}
    scale = number_of(table.get("scale"), "lora_parameters.scale", fail)
    rank = count_of(table.get("rank"), "lora_parameters.rank", fail)
    out: dict[str, Entry] = {}
    for module, pair in pairs_of(arrays, r"(.+)\.(lora_[ab])", fail, unsupported).items():
        name = check_name(f"{module}.weight", out, fail)
        first, second, dtype = both(module, pair, "lora_a", "lora_b", fail)
        experts = first.ndim == 3
        up, down = (second, first) if experts else (second.T, first.T)
        check_pair(module, up, down, rank, fail)
        out[name] = Lora(up, down, scale, dtype, "linear" if experts else None)
    return out


def pairs_of(arrays: dict[str, Stored], pattern: str, fail: Fail, unsupported: Fail) -> dict[str, dict[str, Stored]]:
    """module -> its two arrays by their last name."""
    out: dict[str, dict[str, Stored]] = {}
    for name in sorted(arrays):
        match = re.fullmatch(pattern, name, re.DOTALL)
        if match is None:
            unsupported("a plain LoRA has no such array", field="name", expected="lora_a, lora_b", found=show(name))
        pair = out.setdefault(match[1], {})
        if match[2] in pair:
            fail("a name occurs twice", field="name", expected="unique names", found=show(name))
        pair[match[2]] = arrays.pop(name)
    return out


def both(module: str, pair: dict[str, Stored], a: str, b: str, fail: Fail) -> tuple[np.ndarray, np.ndarray, str]:
    """Both arrays in one float type, and how the first was stored."""
    if set(pair) != {a, b}:
        fail("a pair lacks one array", field=show(module), expected=f"{a} and {b}", found=", ".join(sorted(pair)))
    first, second = (floats(pair[key], f"{show(module)}.{key}", fail) for key in (a, b))
    if first.dtype != second.dtype:
        first, second = first.astype("<f4"), second.astype("<f4")
    return first, second, pair[a].dtype


def check_pair(module: str, up: np.ndarray, down: np.ndarray, rank: int, fail: Fail) -> None:
    where = show(module)
    if up.ndim != down.ndim or up.ndim not in (2, 3) or up.shape[:-2] != down.shape[:-2]:
        fail("a pair's shapes do not match", field=where, expected="two matrices", found=f"{up.shape}, {down.shape}")
    if not up.shape[-1] == down.shape[-2] == rank:
        found = f"{up.shape[-1]} and {down.shape[-2]}"
        fail("the rank differs from the configuration", field=where, expected=rank, found=found)


def number_of(value: object, key: str, fail: Fail) -> float:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not -_MAX_SCALE <= number <= _MAX_SCALE:  # NaN is in no range
        fail("bad number", field=f"adapter_config.{key}", expected="a finite number", found=show(value))
    return float(number)


def count_of(value: object, key: str, fail: Fail) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        fail("bad rank", field=f"adapter_config.{key}", expected="an integer >= 1", found=show(value))
    return int(value)
