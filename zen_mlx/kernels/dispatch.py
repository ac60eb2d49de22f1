"""The one door to the kernels: y = y_base + sum over parts of part(x), on whatever device MLX runs.

A `Sign` part is the equation of `reference` with its arrays in [slots, ...] form; a `Dense` part is x @ values[slot]^T.
Both are tuples of arrays only, so that a layer holding them can be seen by `mx.compile` as state.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..errors import TargetError
from . import reference
from .parts import Dense, Launch, Part, Sign
from .reference import sign_dense, unpack_signs

__all__ = [
    "Dense",
    "Part",
    "Sign",
    "add_parts",
    "backend",
    "dense_delta",
    "run",
    "sign_dense",
    "sign_matmul",
    "unpack_signs",
]


# Rows of x per slot from which unpack + matmul beats MLX's 1-bit product; None: never. Measured with 2560 x 2560 in
# f32 on two x86 cores: unpacking 9 ms, then 1.7-2.3 ms for 1-8 rows with OpenBLAS, against 5.9 ms a row. Metal's 1-bit
# product has its own many-row kernel. MLX on CUDA has no 1-bit product.
_UNPACK_ROWS_PER_SLOT: dict[str, int | None] = {"cpu": 3, "metal": None, "cuda": 0}


def backend() -> str:
    """`cpu`, `metal` or `cuda`: where MLX's default device computes."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def _check(x: mx.array, packed: mx.array, **arrays: mx.array | None) -> None:
    k, (s, n, found) = x.shape[-1], packed.shape
    expected = {"row": (s, n), "col": (s, k), "slots": x.shape[:-1], "y_base": (*x.shape[:-1], n)}
    if found != -(-k // 32):
        raise TargetError("signs do not fit x", field="packed", expected=-(-k // 32), found=found)
    for name, array in arrays.items():
        if array is not None and array.shape != expected[name]:
            raise TargetError(
                "a kernel operand has the wrong shape", field=name, expected=expected[name], found=array.shape
            )


def sign_matmul(
    x: mx.array,
    packed: mx.array,
    *,
    row: mx.array | None = None,
    col: mx.array | None = None,
    block: mx.array | None = None,
    slots: mx.array | None = None,
    y_base: mx.array | None = None,
) -> mx.array:
    """y = y_base + row * (sign * block) @ (col * x); shapes and dtypes as in `reference`. TargetError: bad shape."""
    _check(x, packed, row=row, col=col, slots=slots, y_base=y_base)
    threshold = _UNPACK_ROWS_PER_SLOT[backend()]
    rows = x.size // max(x.shape[-1], 1)
    unpack = threshold is not None and rows >= threshold * packed.shape[0]
    return reference.sign_matmul(x, packed, row=row, col=col, block=block, slots=slots, y_base=y_base, unpack=unpack)


def run(
    launch: Launch,
    x: mx.array,
    signs: Sequence[Sign],
    y_bases: Sequence[mx.array | None],
    slots: mx.array | None = None,
) -> list[mx.array]:
    """`launch` for x [..., K], slots [...] or None, y_bases [..., N] or None -> one y [..., N] a plane."""
    lead, k = x.shape[:-1], x.shape[-1]
    if x.size == 0:
        empty = [mx.zeros((*lead, s.packed.shape[1]), dtype=x.dtype) for s in signs]
        return [e if y is None else y for e, y in zip(empty, y_bases, strict=True)]
    flat = None if slots is None else slots.reshape(-1).astype(mx.int32)
    bases = [None if y is None else y.reshape(-1, y.shape[-1]) for y in y_bases]
    ys = launch(x.reshape(-1, k), signs, bases, flat)
    return [y.reshape(*lead, y.shape[-1]) for y in ys]


def _dense_matmul(x: mx.array, values: mx.array, slots: mx.array | None, y_base: mx.array) -> mx.array:
    """y = y_base + x @ values[slot]^T, sums in f32; a slot id out of range adds nothing."""
    if x.size == 0:
        return y_base
    rows, weight = x.reshape(-1, x.shape[-1]).astype(mx.float32), values.astype(mx.float32)
    if slots is None:
        y = rows @ weight[0].T
    else:
        flat = slots.reshape(-1).astype(mx.int32)
        valid = (flat >= 0) & (flat < values.shape[0])
        y = mx.gather_mm(rows[:, None], weight.swapaxes(-1, -2), rhs_indices=mx.where(valid, flat, 0))[:, 0]
        y = mx.where(valid[:, None], y, 0.0)
    return (y_base.astype(mx.float32) + y.reshape(y_base.shape)).astype(y_base.dtype)


def add_parts(x: mx.array, parts: Sequence[Part], y_base: mx.array, slots: mx.array | None = None) -> mx.array:
    """y = y_base + sum over parts of part(x) for x [..., K], slots [...] or None; y in y_base's dtype, rounded once."""
    y = y_base.astype(mx.float32) if len(parts) > 1 else y_base
    for part in parts:
        if isinstance(part, Dense):
            y = _dense_matmul(x, part.values, slots, y)
        else:
            y = sign_matmul(x, part.packed, row=part.row, col=part.col, block=part.block, slots=slots, y_base=y)
    return y.astype(y_base.dtype)


def dense_delta(parts: Sequence[Part], k: int) -> mx.array:
    """delta[s,n,k] = sum of the parts in stored order, f32 [S, N, K]."""
    total: mx.array | None = None
    for part in parts:
        if isinstance(part, Dense):
            delta = part.values.astype(mx.float32)
        else:
            delta = sign_dense(part.packed, k, part.row, part.col, part.block)
        total = delta if total is None else total + delta
    if total is None:
        raise TargetError("a delta without parts", field="parts", expected="at least one", found=0)
    return total
