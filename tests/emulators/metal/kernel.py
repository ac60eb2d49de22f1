"""`metal_kernel`, `mx.fast.metal_kernel`'s twin: MLX writes the Metal text, g++ compiles it, lanes run on the CPU."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from emulators.simt import CompileError, KernelError, Library, compile_kernel

from .rewrite import Kernel, RewriteError, rewrite

HERE = Path(__file__).resolve().parent
HEADERS = tuple(HERE / name for name in ("checks.h", "vec.h", "math.h", "atomic.h", "simd.h", "matrix.h", "msl.h"))
FLAGS = ("-Og", "-fsanitize=bounds-strict,shift-exponent,integer-divide-by-zero", "-ftrivial-auto-var-init=pattern")
MOST_THREADS = 1024
MLX_CPU_OFFSET = 8  # MLX's CPU allocator gives addresses of this remainder by 16, Metal's of remainder 0


class _GivenBuffer(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("item_bytes", ctypes.c_uint32),
        ("writable", ctypes.c_uint32),
        ("initialised", ctypes.c_uint32),
        ("atomic", ctypes.c_uint32),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("group", ctypes.c_uint32 * 3),
        ("buffers", ctypes.c_uint32),
        ("buffer", _GivenBuffer * 64),
    ]


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def _aligned(n_bytes: int, remainder: int = 0) -> np.ndarray:
    """Bytes, all ones, at an address that leaves `remainder` by 64."""
    room = np.full(n_bytes + 128, 0xFF, np.uint8)
    start = (remainder - room.ctypes.data) % 64
    return room[start : start + n_bytes]


def _bytes_of(x: mx.array) -> tuple[np.ndarray, list[int]]:
    """A copy of an array's memory as it lies, with its alignment by 16, and the strides in elements."""
    view = _PyBuffer()
    if ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(x), ctypes.byref(view), 0x18):
        raise TypeError("this array has no buffer")
    try:
        strides = [view.strides[i] for i in range(view.ndim)]
        extent = sum((view.shape[i] - 1) * strides[i] for i in range(view.ndim)) + view.itemsize if x.size else 0
        memory = _aligned(extent, (view.buf - MLX_CPU_OFFSET) % 16)
        if extent:
            ctypes.memmove(memory.ctypes.data, view.buf, extent)
        return memory, [stride // view.itemsize for stride in strides]
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


def _row_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _with_lines(message: str, text: str, name: str) -> str:
    """The message, followed by the lines of the Metal text that it names."""
    lines = text.splitlines()
    numbers = dict.fromkeys(int(n) for n in re.findall(rf"{re.escape(name)}:(\d+)", message))
    shown = [f"  {name}:{n}: {lines[n - 1].strip()}" for n in numbers if 0 < n <= len(lines)]
    return "\n".join([message.rstrip(), *shown[:8]])


def _explain(message: str) -> str:
    """The compiler's words, shortened, with what usually is behind a mix of address spaces."""
    wanted = [line for line in message.splitlines() if re.search(r"error|required from here|mismatched|deleted", line)]
    found = {space for space in ("device", "constant", "threadgroup") if re.search(rf"msl::{space}\b", message)}
    if len(found) > 1 and re.search(r"mismatched|deleted|could not convert|cannot convert|no match", message):
        wanted.append(f"address spaces are mixed here: {' and '.join(sorted(found))}")
        if "constant" in found:
            wanted.append("(MLX passes an input with fewer than 8 elements as `constant`, not `device`)")
    return "\n".join(wanted or [message])


class MetalKernel:
    """A kernel that MLX's constructor accepted; a call compiles it for these inputs and template values, once, and runs it."""

    def __init__(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        ensure_row_contiguous: bool = True,
        atomic_outputs: bool = False,
        **options: Any,
    ) -> None:
        self.name = name
        self.input_names = list(input_names)
        self.output_names = list(output_names)
        self.source = source
        self.ensure_row_contiguous = ensure_row_contiguous
        self.atomic_outputs = atomic_outputs
        self.real = mx.fast.metal_kernel(
            name=name, input_names=input_names, output_names=output_names, source=source, header=header,
            ensure_row_contiguous=ensure_row_contiguous, atomic_outputs=atomic_outputs, **options,
        )  # fmt: skip
        self.built: dict[object, tuple[Library, Kernel, str]] = {}

    def __call__(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, Any]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        threads = int(np.prod([min(a, b) for a, b in zip(threadgroup, grid, strict=True)]))
        if int(np.prod(threadgroup)) > MOST_THREADS:
            raise ValueError(f"{self.name}: {threadgroup} is more than {MOST_THREADS} threads a threadgroup")
        if threads <= 0:
            raise ValueError(f"{self.name}: the grid {grid} in threadgroups of {threadgroup} is empty")
        arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
        mx.eval(arrays)
        key = (
            tuple((x.dtype, x.ndim, min(x.size, 8)) for x in arrays),
            tuple(output_dtypes),
            tuple((n, str(v), type(v)) for n, v in template or ()),
        )
        if key not in self.built:
            self.built[key] = self.build(arrays, output_shapes, output_dtypes, template)
        library, kernel, text = self.built[key]
        if verbose:
            sys.stdout.write(text)

        memory: dict[str, np.ndarray] = {}
        for name, x in zip(self.input_names, arrays, strict=True):
            data, strides = _bytes_of(x)
            if self.ensure_row_contiguous and not _row_contiguous(x.shape, strides):
                x = mx.contiguous(x)
                mx.eval(x)
                data, strides = _bytes_of(x)
            memory[name] = data
            memory[f"{name}_shape"] = np.array(x.shape, np.int32).view(np.uint8)
            memory[f"{name}_strides"] = np.array(strides, np.int64).view(np.uint8)
            memory[f"{name}_ndim"] = np.array([x.ndim], np.int32).view(np.uint8)
        for name, shape, dtype in zip(self.output_names, output_shapes, output_dtypes, strict=True):
            memory[name] = _aligned(int(np.prod(shape, dtype=np.int64)) * dtype.size)
            if init_value is not None and memory[name].size:
                fill = mx.full((memory[name].size // dtype.size,), init_value, dtype)
                memory[name][:] = _bytes_of(mx.contiguous(fill) if fill.ndim else fill)[0]

        self.launch(library, kernel, text, memory, dict(zip(self.output_names, output_dtypes, strict=True)),
                    grid, threadgroup, init_value is not None)  # fmt: skip
        results = []
        for name, shape, dtype in zip(self.output_names, output_shapes, output_dtypes, strict=True):
            kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.size]
            flat = mx.array(memory[name].copy().view(kind))
            results.append(flat.view(dtype).reshape(shape) if flat.size else mx.zeros(shape, dtype))
        return results

    def build(
        self, arrays: list[mx.array], shapes: Sequence[Sequence[int]], dtypes: Sequence[mx.Dtype], template: Any
    ) -> tuple[Library, Kernel, str]:
        options = {"template": template} if template else {}
        text = _text_of(
            lambda *given: self.real(
                inputs=list(given), output_shapes=[tuple(s) for s in shapes], output_dtypes=list(dtypes),
                grid=(1, 1, 1), threadgroup=(1, 1, 1), verbose=True, **options,
            ),
            arrays,
        )  # fmt: skip
        kernel, library = compiled(text, self.name)
        return library, kernel, text

    def launch(
        self, library: Library, kernel: Kernel, text: str, memory: dict[str, np.ndarray], outputs: dict[str, mx.Dtype],
        grid: Sequence[int], threadgroup: Sequence[int], initialised: bool,
    ) -> None:  # fmt: skip
        launch = _Launch(kernel=self.name.encode(), grid=tuple(grid), group=tuple(threadgroup))
        for parameter in kernel.parameters:
            if parameter.attribute != "buffer":
                continue
            data = memory[parameter.name]
            output = outputs.get(parameter.name)
            launch.buffer[parameter.index] = _GivenBuffer(
                parameter.name.encode(), data.ctypes.data, data.size, output.size if output else 4, output is not None,
                output is None or initialised, output is not None and self.atomic_outputs,
            )  # fmt: skip
            launch.buffers = max(launch.buffers, parameter.index + 1)
        try:
            library.call(ctypes.byref(launch))
        except KernelError as error:
            raise KernelError(_with_lines(str(error), text, f"{self.name}.metal")) from None


def _text_of(call: Callable[..., Any], arrays: list[mx.array]) -> str:
    """What MLX prints of the kernel while it traces a call: the text between the fences."""
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 1)
        try:
            mx.export_function(f"{place}/kernel.mlxfn", call, *arrays)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        caught.seek(0)
        printed = caught.read().decode()
    match = re.search(r"```\n(.*)\n```", printed, re.S)
    if not match:
        raise CompileError(f"MLX printed no kernel: {printed[:200]!r}")
    return match[1]


@cache
def compiled(text: str, name: str) -> tuple[Kernel, Library]:
    """The kernel in a Metal text, rewritten and compiled. RewriteError or CompileError with the lines of the text."""
    try:
        kernel = rewrite(text, f"{name}.metal")
    except RewriteError as error:
        raise RewriteError(_with_lines(str(error), text, f"{name}.metal")) from None
    arguments = ", ".join(
        f"msl::argument<{p.type}>({p.index})" if p.attribute == "buffer" else f"msl::attribute::{p.attribute}()"
        for p in kernel.parameters
    )
    code = (
        f'#include "msl.h"\nnamespace kernel_text {{\nusing namespace msl;\n#line 1 "{name}.metal"\n{kernel.text}\n'
        f'#line 1 "launch.cpp"\nstatic void body(void*) {{ {kernel.call}({arguments}); }}\n}}\n'
        f'extern "C" int simt_launch(const msl::launch* launch) {{ return !msl::run(*launch, kernel_text::body); }}\n'
    )
    try:
        return kernel, compile_kernel(code, HEADERS, FLAGS)
    except CompileError as error:
        raise CompileError(_with_lines(_explain(str(error)), text, f"{name}.metal")) from None


def generated(kernel: MetalKernel, **call: Any) -> str:
    """The full Metal text that MLX generates for this call of `metal_kernel`'s result."""
    arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in call["inputs"]]
    return kernel.build(arrays, call["output_shapes"], call["output_dtypes"], call.get("template"))[2]


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    **options: Any,
) -> MetalKernel:
    """`mx.fast.metal_kernel`, emulated. Results are evaluated; errors are CompileError, RewriteError and KernelError."""
    return MetalKernel(
        name, input_names, output_names, source, header, ensure_row_contiguous, atomic_outputs, **options
    )
