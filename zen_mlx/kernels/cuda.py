"""CUDA kernels: the equation of `reference` on NVIDIA GPUs, `cuda_kernels/` bound through `mx.fast.cuda_kernel`.

`cuda_text` writes the kernels; here they are launched: grids, operands, and the terms that x is split into where tensor
cores would round it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import mlx.core as mx

from .cuda_text import CudaForm, text
from .operands import Launch, SignOperand

cuda_kernel = mx.fast.cuda_kernel

_MATVEC_THREADS, _MATVEC_N = 128, 16
_MMA_THREADS, _MMA_N, _MMA_WARPS, _MMA_PITCH = 256, 32, 8, 33
_ELEMENT_THREADS = 128
_MAX_GRID_Y = 65535
_FEW_ROWS = 8  # one tile of mma's columns; above, four of them share the signs, or two where terms take registers
_TILE_BYTES = 16 << 20  # of unpacked signs at a time


@cache
def kernel(form: CudaForm) -> Any:
    """The built kernel of a form."""
    return cuda_kernel(**text(form)._asdict())


def _form(file: str, sign: SignOperand, **more: Any) -> CudaForm:
    return CudaForm(file, row=sign.row is not None, col=sign.col is not None, block=sign.block is not None, **more)


def _operands(sign: SignOperand, base: mx.array | None, col: bool = True) -> list[mx.array]:
    arrays = (sign.packed, sign.row, sign.col if col else None, sign.block, base)
    return [array for array in arrays if array is not None]


def _one_type(launch: Launch) -> Launch:
    """`launch` for planes whose outputs may differ in type: such planes go one at a time."""

    def product(
        x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
    ) -> Sequence[mx.array]:
        if len({None if base is None else base.dtype for base in y_bases}) == 1:
            return launch(x, signs, y_bases, slots)
        return [launch(x, [sign], [base], slots)[0] for sign, base in zip(signs, y_bases, strict=True)]

    return product


def _out_dtype(x: mx.array, base: mx.array | None) -> mx.Dtype:
    return x.dtype if base is None else base.dtype


def _tiles(signs: Sequence[SignOperand], rows: int) -> int:
    return sum(-(-sign.packed.shape[1] // rows) for sign in signs)


def _matvec(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    """`Launch`, one row of x at a time: select-add."""
    m, y = x.shape[0], _out_dtype(x, y_bases[0])
    form = _form(
        "matvec",
        signs[0],
        planes=len(signs),
        base=y_bases[0] is not None,
        slots=slots is not None,
        x=x.dtype,
        y=y,
    )
    inputs = [x] if slots is None else [x, slots]
    for sign, base in zip(signs, y_bases, strict=True):
        inputs += _operands(sign, base)
    found: list[mx.array] = kernel(form)(
        inputs=inputs,
        grid=(_tiles(signs, _MATVEC_N) * _MATVEC_THREADS, min(m, _MAX_GRID_Y), 1),
        threadgroup=(_MATVEC_THREADS, 1, 1),
        output_shapes=[(m, sign.packed.shape[1]) for sign in signs],
        output_dtypes=[y] * len(signs),
    )
    return found


@cache
def _sizes(terms: int, columns: int) -> mx.array:
    """Two numbers as data: MLX passes a kernel no scalars."""
    return mx.array([terms, columns], dtype=mx.int32)


def _terms(y: mx.Dtype) -> int:
    """How many terms of 8 bits an f32 needs where the result is rounded to y."""
    return 3 if y == mx.float32 else 2


def split(
    x: mx.array, col: mx.array | None, slots: mx.array | None, terms: int, columns: int, dtype: mx.Dtype
) -> mx.array:
    """sum_p y[p] = col[slots] * x, zero beyond K: x [M, K] -> [terms, M, columns]; f32 terms hold bf16 values."""
    m = x.shape[0]
    use = slots if col is not None else None
    inputs = [x, _sizes(terms, columns), *([] if col is None else [col]), *([] if use is None else [use])]
    found: list[mx.array] = kernel(CudaForm("split", col=col is not None, slots=use is not None, x=x.dtype, y=dtype))(
        inputs=inputs,
        grid=(-(-columns // _ELEMENT_THREADS) * _ELEMENT_THREADS, min(m, _MAX_GRID_Y), 1),
        threadgroup=(_ELEMENT_THREADS, 1, 1),
        output_shapes=[(terms, m, columns)],
        output_dtypes=[dtype],
    )
    return found[0]


def _mma(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    """`Launch` by tensor cores."""
    (m, k), y = x.shape, _out_dtype(x, y_bases[0])
    col = signs[0].col is not None
    columns = signs[0].packed.shape[2] * 32
    if x.dtype == mx.float32 or col:
        terms, dtype = _terms(y), mx.bfloat16
        own = [split(x, sign.col, slots, terms, columns, dtype) for sign in (signs if col else signs[:1])]
    else:
        terms, dtype = 1, x.dtype
        own = [x[None] if k == columns else split(x, None, None, 1, columns, dtype)]
    tiles = 1 if m <= _FEW_ROWS else 2 if terms > 1 else 4
    form = _form(
        "mma",
        signs[0]._replace(col=None),
        planes=len(signs),
        base=y_bases[0] is not None,
        slots=slots is not None,
        x=dtype,
        y=y,
        tiles=tiles,
        terms=terms > 1,
        own_x=col,
    )
    inputs = own if slots is None else [*own, slots]
    for sign, base in zip(signs, y_bases, strict=True):
        inputs += _operands(sign, base, col=False)
    found: list[mx.array] = kernel(form)(
        inputs=inputs,
        grid=(_tiles(signs, _MMA_N) * _MMA_THREADS, -(-m // (8 * tiles)), 1),
        threadgroup=(_MMA_THREADS, 1, 1),
        output_shapes=[(m, sign.packed.shape[1]) for sign in signs],
        output_dtypes=[y] * len(signs),
    )
    return found


def _unpacked_tile(packed: mx.array, block: mx.array | None, k: int, terms: int) -> mx.array:
    """packed [1, n, W], block [1, n, blocks] -> sign * block as [terms, n, K] f32 that sum to it, each exact in TF32."""
    n = packed.shape[1]
    found: list[mx.array] = kernel(CudaForm("unpack", block=block is not None))(
        inputs=[_sizes(terms, k), packed, *([] if block is None else [block])],
        grid=(-(-k // _ELEMENT_THREADS) * _ELEMENT_THREADS, min(n, _MAX_GRID_Y), 1),
        threadgroup=(_ELEMENT_THREADS, 1, 1),
        output_shapes=[(terms, n, k)],
        output_dtypes=[mx.float32],
    )
    return found[0]


def _unpacked_product(x: mx.array, sign: SignOperand, weight_terms: int) -> mx.array:
    """sum_k sign * block * x for x [P, M, K] f32 terms -> [M, N] f32, a bounded tile of unpacked rows after another."""
    p, m, k = x.shape
    rows = max(1, _TILE_BYTES // (4 * k * weight_terms))
    found: list[mx.array] = []
    for first in range(0, sign.packed.shape[1], rows):
        packed, block = sign.packed[:1, first : first + rows], sign.block
        if found:  # or all tiles would be unpacked before the first product
            packed = mx.depends([packed], [found[-1]])[0]
        weight = _unpacked_tile(packed, None if block is None else block[:1, first : first + rows], k, weight_terms)
        products = (x.reshape(p * m, k) @ weight.reshape(-1, k).T).reshape(p, m, weight_terms, -1)
        order = sorted(((i, j) for i in range(p) for j in range(weight_terms)), key=sum, reverse=True)
        y = products[order[0][0], :, order[0][1]]
        for i, j in order[1:]:  # the smallest first
            y = y + products[i, :, j]
        found.append(y)
    return found[0] if len(found) == 1 else mx.concatenate(found, axis=1)


def _unpack(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    """`Launch` by MLX's matmul on unpacked tiles; several slots go to the tensor-core kernel, one pass a slot and tile."""
    if slots is not None and signs[0].packed.shape[0] > 1:
        return _mma(x, signs, y_bases, slots)
    k = x.shape[1]
    terms = x.astype(mx.float32)[None]
    found = []
    for sign, base in zip(signs, y_bases, strict=True):
        dtype = _out_dtype(x, base)
        if x.dtype == mx.float32 or sign.col is not None:
            terms = split(x, sign.col, slots, _terms(dtype), k, mx.float32)
        y = _unpacked_product(terms, sign, 1 if sign.block is None else _terms(dtype))
        if sign.row is not None:
            y = y * sign.row[0]
        if slots is not None:
            y = mx.where((slots == 0)[:, None], y, 0.0)
        if base is not None:
            y = base.astype(mx.float32) + y
        found.append(y.astype(dtype))
    return found


def merge(base: mx.array, sign: SignOperand) -> mx.array:
    """base + row * sign * block * col for base [S, N, K] f32, f16 or bf16: f32 arithmetic, rounded once; a new array."""
    s, n, k = base.shape
    found: list[mx.array] = kernel(_form("merge", sign, base=True, x=base.dtype, y=base.dtype))(
        inputs=_operands(sign, base),
        grid=(-(-k // _ELEMENT_THREADS) * _ELEMENT_THREADS, min(s * n, _MAX_GRID_Y), 1),
        threadgroup=(_ELEMENT_THREADS, 1, 1),
        output_shapes=[base.shape],
        output_dtypes=[base.dtype],
    )
    return found[0]


KERNELS: Mapping[str, Launch] = {
    "matvec": _one_type(_matvec),
    "mma": _one_type(_mma),
    "unpack": _one_type(_unpack),
}
