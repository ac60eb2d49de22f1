"""Metal kernels: the equation of `reference` on Apple GPUs, `metal_kernels/` bound through `mx.fast.metal_kernel`.

A kernel file holds a template function; what is written here is the body that MLX wraps: it finds the projection a
threadgroup works on and calls the function with that projection's arrays. An absent operand is no input at all, but an
`Always<value>` that the compiler folds away. Inputs that are not row-contiguous are copied by MLX (never the packed
signs of a profile, which are).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import mlx.core as mx

from .operands import Launch, SignOperand
from .sources import source

metal_kernel = mx.fast.metal_kernel


class Tiling(NamedTuple):
    """How a kernel file cuts [M, N] into threadgroups: `rows_n` rows of the signs by `rows_m` rows of x each."""

    template: str
    size: int  # the template's argument
    rows_m: int
    rows_n: int
    threads: int


_SIMD = 32
_SIMDGROUPS = 2  # a threadgroup, in matvec and wide; the files say the same
_WIDE_M = 4
_MATMUL_N = 64

# Rows of the signs a simdgroup takes: 8 share the work on x best, 4 leave enough simdgroups where the projections are
# small (40 cores hold about 1000 at a time). A threadgroup of matmul takes 16, 32 or 64 rows of x: more read and unpack
# the signs less often, as long as they are not padding.
_MANY_ROWS_N = 2048
_FEW_ROWS_M, _MANY_ROWS_M = 16, 96


def tiling(file: str, m: int, n: int) -> Tiling:
    """The tiling of `file` for M rows of x and N rows of the signs in all."""
    if file == "matmul":
        rows = 16 if m <= _FEW_ROWS_M else 32 if m < _MANY_ROWS_M else 64
        return Tiling("BM", rows, rows, _MATMUL_N, 4 * _SIMD)
    rows = 8 if n >= _MANY_ROWS_N else 4
    return Tiling("ROWS", rows, _WIDE_M if file == "wide" else 1, rows * _SIMDGROUPS, _SIMDGROUPS * _SIMD)


def grid(cut: Tiling, m: int, ns: Sequence[int]) -> tuple[int, int, int]:
    """Threads: the tiles of the projections one after the other along x, rows of x along y."""
    return sum(-(-n // cut.rows_n) for n in ns) * cut.threads, -(-m // cut.rows_m), 1


class MetalForm(NamedTuple):
    """Which operands a launch has."""

    planes: int
    row: bool
    col: bool
    block: bool
    base: bool
    slots: bool


_PLACES = {
    "matvec": "threadgroup_position_in_grid.y, simdgroup_index_in_threadgroup, thread_index_in_simdgroup",
    "wide": "threadgroup_position_in_grid.y, simdgroup_index_in_threadgroup, thread_index_in_simdgroup",
    "matmul": "threadgroup_position_in_grid.y, simdgroup_index_in_threadgroup, thread_index_in_threadgroup, tiles, ids",
}
_TILE_ROWS = {"matvec": f"ROWS * {_SIMDGROUPS}", "wide": f"ROWS * {_SIMDGROUPS}", "matmul": "MATMUL_N"}
_MATMUL_MEMORY = "threadgroup float tiles[(BM + MATMUL_N) * MATMUL_STRIDE];\nthreadgroup int ids[BM];\n"


def _shape(plane: int, block: bool, m: str) -> str:
    blocks = f"uint(block{plane}_shape[2])" if block else "1u"
    packed = f"packed{plane}_shape"
    return f"Shape{{{m}, K, uint({packed}[0]), uint({packed}[1]), uint({packed}[2]), {blocks}}}"


def _scales(plane: int, form: MetalForm) -> list[str]:
    """packed, row, col and block as the functions take them."""
    named = [("row", form.row), ("col", form.col), ("block", form.block)]
    return [f"packed{plane}", *(f"{name}{plane}" if present else "Always<1>()" for name, present in named)]


def _plane_inputs(plane: int, form: MetalForm) -> list[str]:
    present = {"row": form.row, "col": form.col, "block": form.block, "base": form.base}
    return [f"packed{plane}", *(f"{name}{plane}" for name, here in present.items() if here)]


def _product_body(file: str, form: MetalForm) -> str:
    """The projection is found from the threadgroup's index, by counting off the tiles of those before it."""
    size = "BM" if file == "matmul" else "ROWS"
    lines = ["const uint M = x_shape[0];", "const uint K = x_shape[1];", "uint tile = threadgroup_position_in_grid.x;"]
    for g in range(form.planes):
        operands = ["x", "slots" if form.slots else "Always<0>()", *_scales(g, form)]
        operands += [f"base{g}" if form.base else "Always<0>()", f"y{g}"]
        shape = f"shape{g}"
        lines += [
            f"const Shape {shape} = {_shape(g, form.block, 'M')};",
            f"const uint tiles{g} = ({shape}.N + {_TILE_ROWS[file]} - 1) / ({_TILE_ROWS[file]});",
            f"if (tile < tiles{g}) {{",
            f"  {file}<{size}>({shape}, tile, {_PLACES[file]}, {', '.join(operands)});",
            "  return;",
            "}",
            f"tile -= tiles{g};",
        ]
    return (_MATMUL_MEMORY if file == "matmul" else "") + "\n".join(lines)


def _merge_body(form: MetalForm) -> str:
    place = "thread_position_in_grid.x, thread_position_in_grid.y"
    call = f"merge({_shape(0, form.block, '0u')}, {place}, base0, {', '.join(_scales(0, form))}, y0);"
    return f"const uint K = base0_shape[2];\n{call}"


@cache
def kernel(file: str, form: MetalForm) -> Any:
    """The built kernel of `file` for launches of this form. MLX compiles it for each type it is called with."""
    planes = range(form.planes)
    inputs = [] if file == "merge" else ["x", *(["slots"] if form.slots else [])]
    flags = "".join(letter for letter, present in zip("rcbys", form[1:], strict=True) if present)
    return metal_kernel(
        name="_".join(["zen", file, str(form.planes), *([flags] if flags else [])]),
        input_names=[*inputs, *(name for g in planes for name in _plane_inputs(g, form))],
        output_names=[f"y{g}" for g in planes],
        source=_merge_body(form) if file == "merge" else _product_body(file, form),
        header=source("metal_kernels", "common.metal") + source("metal_kernels", f"{file}.metal"),
    )


def _operands(sign: SignOperand, base: mx.array | None) -> list[mx.array]:
    return [array for array in (sign.packed, sign.row, sign.col, sign.block, base) if array is not None]


def _product(
    file: str, x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> list[mx.array]:
    """`Launch` by the kernel in `file`."""
    first, ns = signs[0], [sign.packed.shape[1] for sign in signs]
    form = MetalForm(
        len(signs),
        first.row is not None,
        first.col is not None,
        first.block is not None,
        y_bases[0] is not None,
        slots is not None,
    )
    inputs = [x] if slots is None else [x, slots]
    for sign, base in zip(signs, y_bases, strict=True):
        inputs += _operands(sign, base)
    cut = tiling(file, x.shape[0], sum(ns))
    found: list[mx.array] = kernel(file, form)(
        inputs=inputs,
        template=[(cut.template, cut.size)],
        grid=grid(cut, x.shape[0], ns),
        threadgroup=(cut.threads, 1, 1),
        output_shapes=[(x.shape[0], n) for n in ns],
        output_dtypes=[x.dtype if base is None else base.dtype for base in y_bases],
    )
    return found


def merge(base: mx.array, sign: SignOperand) -> mx.array:
    """base + row * sign * block * col for base [S, N, K] f32, f16 or bf16: f32 arithmetic, rounded once; a new array."""
    s, n, k = base.shape
    form = MetalForm(1, sign.row is not None, sign.col is not None, sign.block is not None, True, False)
    found: list[mx.array] = kernel("merge", form)(
        inputs=_operands(sign, base),
        grid=(-(-k // 8), s * n, 1),
        threadgroup=(_SIMD, 8, 1),
        output_shapes=[base.shape],
        output_dtypes=[base.dtype],
    )
    return found[0]


KERNELS: Mapping[str, Launch] = {file: partial(_product, file) for file in ("matvec", "wide", "matmul")}
