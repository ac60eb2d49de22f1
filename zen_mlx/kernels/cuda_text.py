"""(form of a launch) -> the CUDA text of its kernel, in the form MLX's constructor takes.

A kernel file of `cuda_kernels/` holds template functions; the body written here finds the projection a block works on
and calls the function with that projection's arrays, null pointers for absent ones. MLX finds a compiled kernel, in
memory and on disk, by its name alone: the name carries a digest of the text and of every operand's type.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import mlx.core as mx

from .sources import source

_CTYPES = {mx.float32: "float", mx.float16: "__half", mx.bfloat16: "__nv_bfloat16"}


class CudaForm(NamedTuple):
    """What a kernel's text depends on: present operands and the types of x and of each plane's base and y."""

    file: str
    planes: int = 1
    row: bool = False
    col: bool = False
    block: bool = False
    base: bool = False
    slots: bool = False
    x: mx.Dtype = mx.float32
    y: mx.Dtype = mx.float32
    tiles: int = 1  # mma: NT
    terms: bool = False  # mma: x comes as several terms
    own_x: bool = False  # mma: one x a plane


class Text(NamedTuple):
    """A kernel as MLX's constructor takes it."""

    name: str
    input_names: list[str]
    output_names: list[str]
    source: str
    header: str


def _pointer(name: str, present: bool, ctype: str = "float") -> str:
    return name if present else f"static_cast<const {ctype}*>(nullptr)"


def _planes(form: CudaForm, rows: str, call: str) -> str:
    """A block finds its projection by counting off the tiles of those before it, and calls for that one's arrays.

    The call stands in the text once: three copies of a kernel would take three times as long to compile.
    """
    own = {"packed": "const uint32_t", "row": "const float", "col": "const float", "block": "const float"}
    own |= {"base": f"const {_CTYPES[form.y]}", "y": _CTYPES[form.y], "x": f"const {_CTYPES[form.x]}"}
    names = [
        name for name in own if name in ("packed", "y") or (name == "x" and form.own_x) or getattr(form, name) is True
    ]
    lines = [f"const int S = packed0_shape[0], blocks = {'block0_shape[2]' if form.block else '1'};"]
    lines += ["int tile = blockIdx.x, N = packed0_shape[1];", *(f"{own[n]}* own_{n} = {n}0;" for n in names)]
    for g in range(1, form.planes):
        moved = "".join(f" own_{n} = {n}{g};" for n in names)
        before = "0" if g == 1 else f"tiles{g - 1}"
        lines += [
            f"const int tiles{g} = {before} + (packed{g - 1}_shape[1] + {rows} - 1) / {rows};",
            f"if (static_cast<int>(blockIdx.x) >= tiles{g}) {{ tile = blockIdx.x - tiles{g}; N = packed{g}_shape[1];{moved} }}",
        ]
    return "\n".join([*lines, call])


def _calls(form: CudaForm, prefix: str = "", suffix: str = "0") -> dict[str, str]:
    """The operands of a call: prefix + name + suffix, null pointers for absent ones."""
    present = {"row": form.row, "col": form.col, "block": form.block}
    found = {name: _pointer(f"{prefix}{name}{suffix}", here) for name, here in present.items()}
    found["base"] = _pointer(f"{prefix}base{suffix}", form.base, _CTYPES[form.y])
    found["slots"] = _pointer("slots", form.slots, "int")
    return found


def _matvec_body(form: CudaForm) -> str:
    call = "(stage, partial, x, own_packed, {row}, {col}, {block}, {slots}, {base}, own_y, M, K, N, S, blocks, tile);"
    return (
        "__shared__ __align__(16) float stage[zen::MATVEC_STAGE * zen::MATVEC_PITCH];\n"
        "__shared__ float partial[zen::MATVEC_SPLITS * zen::MATVEC_TILE];\n"
        "const int M = x_shape[0], K = x_shape[1];\n"
    ) + _planes(
        form, "zen::MATVEC_TILE", f"zen::matvec<{str(form.block).lower()}>" + call.format(**_calls(form, "own_", ""))
    )


def _mma_body(form: CudaForm) -> str:
    first, x = ("x0", "own_x") if form.own_x else ("x", "x")
    call = f"(sums, {x}, own_packed, {{row}}, {{block}}, {{slots}}, {{base}}, own_y, P, M, N, W, S, blocks, tile);"
    flags = f"<{form.tiles}, {str(form.block).lower()}, {str(form.terms).lower()}>"
    return (
        f"__shared__ float sums[zen::MMA_WARPS * {8 * form.tiles} * zen::MMA_PITCH];\n"
        f"const int P = {first}_shape[0], M = {first}_shape[1], W = packed0_shape[2];\n"
    ) + _planes(form, "zen::MMA_N", f"zen::mma_rows{flags}" + call.format(**_calls(form, "own_", "")))


def _split_body(form: CudaForm) -> str:
    operands = _calls(form)
    slot_count = "col0_shape[0]" if form.col else "1"
    return "zen::split(x, {col}, {slots}, sizes, y0, x_shape[0], x_shape[1], ".format(**operands) + f"{slot_count});"


def _unpack_body(form: CudaForm) -> str:
    blocks = "block0_shape[2]" if form.block else "1"
    block = _pointer("block0", form.block)
    return f"zen::unpack(packed0, {block}, sizes, y0, packed0_shape[1], packed0_shape[2], {blocks});"


def _merge_body(form: CudaForm) -> str:
    operands = _calls(form)
    blocks = "block0_shape[2]" if form.block else "1"
    return (
        "zen::merge(base0, packed0, {row}, {col}, {block}, y0, ".format(**operands)
        + f"packed0_shape[0], packed0_shape[1], base0_shape[2], packed0_shape[2], {blocks});"
    )


_BODIES = {
    "matvec": ("matvec", _matvec_body),
    "mma": ("mma", _mma_body),
    "split": ("split", _split_body),
    "unpack": ("unpack", _unpack_body),
    "merge": ("unpack", _merge_body),
}


def _input_names(form: CudaForm) -> list[str]:
    if form.file == "split":
        return ["x", "sizes", *(["col0"] if form.col else []), *(["slots"] if form.slots else [])]
    if form.file == "unpack":
        return ["sizes", "packed0", *(["block0"] if form.block else [])]
    names = []
    if form.file != "merge":
        names = [f"x{g}" for g in range(form.planes)] if form.own_x else ["x"]
        names += ["slots"] if form.slots else []
    present = {"packed": True, "row": form.row, "col": form.col, "block": form.block, "base": form.base}
    return names + [f"{name}{g}" for g in range(form.planes) for name, here in present.items() if here]


def text(form: CudaForm) -> Text:
    """The kernel of this form as text. The launch must give inputs in the order of `input_names`."""
    file, body = _BODIES[form.file]
    header = source("cuda_kernels", "common.cuh") + source("cuda_kernels", f"{file}.cu")
    names, written = _input_names(form), body(form)
    digest = hashlib.sha256(repr((form, header, written)).encode()).hexdigest()[:16]
    return Text(f"zen_{form.file}_{digest}", names, [f"y{g}" for g in range(form.planes)], written, header)
