"""cuda_kernel(name, ...)(inputs=..., ...) -> outputs, with the constructor and the call of `mx.fast.cuda_kernel`.

Other than MLX it computes at once, so that a fault is raised at the call that has it, and not while `mx.compile` traces.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .build import library, simt_build
from .source import (
    CUDA_TYPES,
    MAX_NDIM,
    Argument,
    Template,
    check_template,
    kernel_name,
    kernel_text,
    launch_shape,
    signature,
)

_BITS = {mx.bfloat16: mx.uint16, mx.bool_: mx.uint8}
_DYNAMIC_LIMIT = 227 * 1024


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("offset", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("output", ctypes.c_int),
        ("initialised", ctypes.c_int),
        ("unit", ctypes.c_int),
        ("unwritten", ctypes.c_size_t),
        ("first_unwritten", ctypes.c_size_t),
    )


def _host(x: mx.array) -> np.ndarray:
    """x's own memory, with its strides; types that NumPy lacks as their bits."""
    mx.eval(x)
    bits = x.view(_BITS[x.dtype]) if x.dtype in _BITS else x
    mx.eval(bits)
    return np.array(bits, copy=False)


_ALIGNED = _host(mx.zeros(64)).ctypes.data % 16  # of an array that starts where its allocation does


def _contiguous(x: mx.array) -> mx.array:
    host = _host(x)
    return x if host.flags.c_contiguous else mx.contiguous(x)


def _extent(host: np.ndarray) -> tuple[int, int]:
    """First address and bytes of all that a strided array touches."""
    low, high = np.lib.array_utils.byte_bounds(host)
    return low, high - low


def source_text(
    name: str,
    input_names: Sequence[str],
    inputs: Sequence[mx.array],
    output_names: Sequence[str],
    output_dtypes: Sequence[mx.Dtype],
    source: str,
    header: str = "",
    template: Template = (),
) -> str:
    """The text that MLX would compile for this call; it is also what nvcc should take."""
    arguments = signature(input_names, [(x.dtype, x.ndim) for x in inputs], output_names, output_dtypes, source)
    return kernel_text(kernel_name(name, template), header, source, arguments, template)


def _entry(function: str, arguments: Sequence[Argument]) -> str:
    """C++ that calls the kernel with arguments found by address."""
    types = [a.type.replace("__grid_constant__ ", "").removeprefix("const ") for a in arguments]
    casts = ", ".join(
        f"*static_cast<{'const ' if a.kind == 'input' else ''}{t}* const*>(a[{i}])".replace("**", "*")
        if a.kind in ("input", "output")
        else f"*static_cast<const {t}*>(a[{i}])"
        for i, (a, t) in enumerate(zip(arguments, types, strict=True))
    )
    return (
        'extern "C" __attribute__((no_sanitize("thread", "undefined"))) void simt_entry(void* const* a) {\n'
        f"  using namespace mlx::core::cu;\n  {function}({casts});\n}}\n"
    )


def _word(kind: str, x: mx.array) -> Any:
    """A shape, strides or ndim argument as ctypes."""
    if kind == "ndim":
        return ctypes.c_int32(x.ndim)
    if kind == "shape":
        return (ctypes.c_int32 * MAX_NDIM)(*x.shape)
    host = _host(x)
    return (ctypes.c_int64 * MAX_NDIM)(*(s // host.itemsize for s in host.strides))


def _run(
    function: str,
    text: str,
    arguments: Sequence[Argument],
    inputs: Sequence[mx.array],
    outputs: Sequence[np.ndarray],
    initialised: bool,
    shape: tuple[tuple[int, int, int], tuple[int, int, int]],
    shared_memory: int,
) -> None:
    """One launch; fills `outputs`. KernelError: what the runtime found, or elements of an output that nobody wrote."""
    lib = library(text, _entry(function, arguments))
    hosts = [_host(x) for x in inputs]
    pointers = [ctypes.c_void_p() for a in arguments if a.kind in ("input", "output")]
    buffers = (_Buffer * len(pointers))()
    slots: list[Any] = []
    for a in arguments:
        if a.kind not in ("input", "output"):
            slots.append(_word(a.kind, inputs[a.index]))
            continue
        number = sum(isinstance(s, ctypes.c_void_p) for s in slots)
        host = hosts[a.index] if a.kind == "input" else outputs[a.index]
        start, size = _extent(host) if host.size else (0, 0)
        offset = (start - _ALIGNED) % 16 if a.kind == "input" and size else 0
        buffers[number] = _Buffer(
            start, size, offset, a.name.encode(), a.kind == "output", initialised, min(host.itemsize, 4), 0, 0
        )
        slots.append(pointers[number])
    addresses = (ctypes.c_void_p * len(slots))(*(ctypes.addressof(s) for s in slots))
    places = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(p) for p in pointers))
    dims = [(ctypes.c_uint * 3)(*d) for d in shape]
    entry = ctypes.cast(lib.library.simt_entry, ctypes.c_void_p)
    try:
        lib.call(
            entry, addresses, function.encode(), buffers, places, len(pointers), *dims, ctypes.c_size_t(shared_memory)
        )
    except simt_build.KernelError as error:
        raise simt_build.KernelError(_quote(str(error), text)) from None
    if not initialised:
        for b, a in zip(buffers, (a for a in arguments if a.kind in ("input", "output")), strict=True):
            if b.unwritten:
                item = outputs[a.index].itemsize
                raise simt_build.KernelError(
                    f"kernel '{function}': {b.unwritten // item} of {b.bytes // item} elements of the output '{a.name}' "
                    f"were never written, the first is {b.first_unwritten // item}"
                )


def _quote(message: str, text: str) -> str:
    """The message, with the kernel's line beside every place that it names."""
    lines = text.splitlines()
    for number in dict.fromkeys(int(n) for n in re.findall(r"(?:kernel\.cu:|at line )(\d+)", message)):
        if 1 <= number <= len(lines):
            message += f"\n  {number}: {lines[number - 1].strip()}"
    return message


def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    shared_memory: int = 0,
) -> Callable[..., list[mx.array]]:
    """The kernel as a callable that takes what MLX's takes. KernelError, CompileError and RewriteError at the call."""
    if not output_names:
        raise ValueError("[custom_kernel] Must specify at least one output.")
    if shared_memory > _DYNAMIC_LIMIT:
        raise ValueError(f"[cuda_kernel] {shared_memory} bytes of shared memory, the most is {_DYNAMIC_LIMIT}")

    def call(
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Template | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        for what, given, wanted in (
            ("inputs", inputs, input_names),
            ("output_shapes", output_shapes, output_names),
            ("output_dtypes", output_dtypes, output_names),
        ):
            if len(given) != len(wanted):
                raise ValueError(
                    f"[custom_kernel] Expected `{what}` to have size {len(wanted)} but got size {len(given)}."
                )
        arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
        check_template(template or ())
        shape = launch_shape(tuple(grid), tuple(threadgroup))
        # MLX writes the text from the arrays it was given, and copies them at the launch
        arguments = signature(input_names, [(x.dtype, x.ndim) for x in arrays], output_names, output_dtypes, source)
        function = kernel_name(name, template or ())
        text = kernel_text(function, header, source, arguments, template or ())
        if verbose:
            print(f"Generated source code for `{function}`:\n```\n{text}\n```")  # noqa: T201
        if ensure_row_contiguous:
            arrays = [_contiguous(x) for x in arrays]
        results = []
        for shape_, dtype in zip(output_shapes, output_dtypes, strict=True):
            if dtype not in CUDA_TYPES:
                raise ValueError(f"[cuda_kernel] no output of type {dtype}")
            results.append(_host(mx.full(tuple(shape_), init_value or 0, dtype=dtype)).copy())
        _run(function, text, arguments, arrays, results, init_value is not None, shape, shared_memory)
        made = []
        for host, dtype in zip(results, output_dtypes, strict=True):
            out = mx.array(host)
            made.append(out.view(dtype) if dtype in _BITS else out)
        return made

    return call
