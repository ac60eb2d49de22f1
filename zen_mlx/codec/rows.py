"""delta[rows[i], :] = values[i, :], 0 in every other row: vocabulary rows that changed or were added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .floats import DTYPES, float_name, narrowed


@dataclass(frozen=True, slots=True, eq=False)
class RowsPart:
    """rows: u32 [R], strictly rising. values: float16 or float32 [R, K]."""

    rows: np.ndarray
    values: np.ndarray

    @property
    def dtype(self) -> str:
        """`f16` or `f32`: how the values are stored."""
        return float_name(self.values)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.values.nbytes


def encode_rows(delta: np.ndarray, dtype: str = "f16") -> RowsPart:
    """delta [N, K] -> the rows of it that are not zero everywhere; f32 where float16 cannot hold the values.

    Errors: ConfigError for a delta that is not a matrix, not finite, or zero everywhere, and for an unknown dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError("unknown dtype", field="dtype", expected=", ".join(DTYPES), found=dtype)
    if delta.ndim != 2:
        raise ConfigError("rows need a matrix", field="shape", expected="[N, K]", found=delta.shape)
    rows = np.flatnonzero(delta.any(axis=1))
    if not rows.size:
        raise ConfigError("no row of the delta changed", field="delta", expected="a row that is not zero", found="none")
    values = delta[rows].astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ConfigError("the delta is not finite", field="delta", expected="finite numbers", found="NaN or infinity")
    return RowsPart(rows.astype("<u4"), narrowed((values,), dtype)[0])


def decode_rows(part: RowsPart, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [N, K]."""
    out = np.zeros(shape, dtype=np.float32)
    out[part.rows] = part.values
    return out
