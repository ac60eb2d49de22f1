"""The text that MLX's CUDA backend puts around a kernel's body: text = includes + header + signature { templates; body }.

Follows `mlx/backend/cuda/custom_kernel.cpp` of MLX 0.32. What a kernel's author meets here: `X_shape`, `X_strides`
and `X_ndim` become parameters only where the name occurs in the body (not in the header), and never for a 0-d input,
although the launch passes them then; and a template integer becomes part of the function's name, so that a negative one
does not compile. Calls of either form are refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

MAX_NDIM = 10
TEMPLATE_INT = range(2**31)

CUDA_TYPES = {
    mx.bool_: "bool",
    mx.int8: "int8_t",
    mx.int16: "int16_t",
    mx.int32: "int32_t",
    mx.int64: "int64_t",
    mx.uint8: "uint8_t",
    mx.uint16: "uint16_t",
    mx.uint32: "uint32_t",
    mx.uint64: "uint64_t",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.float32: "float",
    mx.float64: "double",
}
_NAME_TYPES = CUDA_TYPES | {mx.float16: "float16_t", mx.bfloat16: "bfloat16_t"}

INCLUDES = """
#include "mlx/backend/cuda/device/utils.cuh"

#include <cooperative_groups.h>

"""

Template = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Argument:
    """One parameter of the kernel: its C++ type and what fills it."""

    type: str
    name: str
    kind: str  # input, output, shape, strides, ndim
    index: int  # of the input or output


def kernel_name(name: str, template: Template) -> str:
    """MLX's name for one instance: custom_kernel_NAME_T1_T2."""
    parts = []
    for _, value in template:
        if isinstance(value, bool):
            parts.append("_t" if value else "_f")
        else:
            parts.append(f"_{value if isinstance(value, int) else _NAME_TYPES[value]}")
    return f"custom_kernel_{name}{''.join(parts)}"


def check_template(template: Template) -> None:
    """ValueError for a template argument that MLX would not take."""
    for key, value in template:
        if isinstance(value, int) and value < 0:
            raise ValueError(
                f"[cuda_kernel] template argument {key} = {value}: a negative one spoils the kernel's name"
            )
        if isinstance(value, bool) or (isinstance(value, int) and value in TEMPLATE_INT):
            continue
        if not isinstance(value, mx.Dtype) or value not in CUDA_TYPES:
            raise ValueError(
                f"[cuda_kernel] template argument {key}: bool, 32-bit int or Dtype expected, found {value!r}"
            )


def signature(
    input_names: Sequence[str],
    inputs: Sequence[tuple[mx.Dtype, int]],
    output_names: Sequence[str],
    output_dtypes: Sequence[mx.Dtype],
    source: str,
) -> list[Argument]:
    """The kernel's parameters in order; an input is given by dtype and number of dimensions."""
    arguments = []
    for i, (name, (dtype, ndim)) in enumerate(zip(input_names, inputs, strict=True)):
        arguments.append(Argument(f"const {CUDA_TYPES[dtype]}*", name, "input", i))
        for kind, type_ in (("shape", "Shape"), ("strides", "Strides"), ("ndim", "int")):
            if f"{name}_{kind}" not in source:
                continue
            if ndim == 0:
                raise ValueError(
                    f"[cuda_kernel] {name} is 0-d and its {kind} is used: MLX passes it without a parameter"
                )
            arguments.append(Argument(f"const __grid_constant__ {type_}", f"{name}_{kind}", kind, i))
    for i, (name, dtype) in enumerate(zip(output_names, output_dtypes, strict=True)):
        arguments.append(Argument(f"{CUDA_TYPES[dtype]}*", name, "output", i))
    return arguments


def kernel_text(function: str, header: str, source: str, arguments: Sequence[Argument], template: Template) -> str:
    """The whole translation unit, as MLX hands it to NVRTC."""
    parameters = ",\n".join(f"    {a.type} {a.name}" for a in arguments)
    constants = ""
    for key, value in template:
        if isinstance(value, bool):
            constants += f"  constexpr bool {key} = {str(value).lower()};\n"
        elif isinstance(value, int):
            constants += f"  constexpr int {key} = {value};\n"
        else:
            constants += f"  using {key} = {CUDA_TYPES[value]};\n"
    if template:
        constants += "\n"
    return (
        f"{INCLUDES}{header}namespace mlx::core::cu {{\n\nnamespace cg = cooperative_groups;\n\n"
        f"__global__ void {function}(\n{parameters}) {{\n{constants}{source}\n}}\n\n}} // namespace mlx::core::cu\n"
    )


def launch_shape(
    grid: tuple[int, int, int], threadgroup: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """grid in threads -> (blocks, threads of a block): ceil(grid / threadgroup) whole blocks of min(threadgroup, grid)."""
    for name, value in (("grid", grid), ("threadgroup", threadgroup)):
        if len(value) != 3 or min(value) < 1:
            raise ValueError(f"[cuda_kernel] {name}: three positive integers expected, found {tuple(value)}")
    blocks = tuple(-(-g // t) for g, t in zip(grid, threadgroup, strict=True))
    threads = tuple(min(g, t) for g, t in zip(grid, threadgroup, strict=True))
    if blocks[0] >= 2**31 or max(blocks[1:]) > 65535:
        raise ValueError(f"[cuda_kernel] too many blocks: {blocks}")
    if threads[0] * threads[1] * threads[2] > 1024 or max(threads[:2]) > 1024 or threads[2] > 64:
        raise ValueError(f"[cuda_kernel] more than 1024 threads in a block: {threads}")
    return blocks, threads  # type: ignore[return-value]
