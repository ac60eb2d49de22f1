"""Which float a stored array takes: float16 where it can hold the numbers, else float32."""

from __future__ import annotations

from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}
F16_LARGEST = 65504.0
F16_SMALLEST = 2.0**-17
"""Under this a float16 keeps fewer than 8 significant bits."""


def float_name(array: np.ndarray) -> str:
    """`f16` or `f32`."""
    return "f16" if array.dtype == np.float16 else "f32"


def narrowed(arrays: tuple[np.ndarray, ...], dtype: str) -> tuple[np.ndarray, ...]:
    """All `arrays` as `dtype`, but as f32 when f16 cannot hold one of them (one over 65504, or all under 2^-17)."""
    largest = [float(np.abs(array).max(initial=0.0)) for array in arrays]
    if dtype == "f16" and all(top <= F16_LARGEST and (top == 0 or top >= F16_SMALLEST) for top in largest):
        return tuple(array.astype(DTYPES["f16"]) for array in arrays)
    return tuple(array.astype(DTYPES["f32"], copy=False) for array in arrays)
