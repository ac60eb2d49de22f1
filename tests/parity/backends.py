"""The kernels under test: MLX's operations, the numba kernel, and the Metal and CUDA kernels, emulated or on hardware.

    with kernels("metal", hardware=False) as found:     found.launch["matvec"], found.merge

Emulated means: the module's constructor (`metal.metal_kernel`, `cuda.cuda_kernel`) is replaced by an emulator's, so that
grids, templates, argument binding and the kernel's text are all exercised. `wrap` sits between the module and the
emulator (or the hardware's constructor): a recorder of what is allocated, a mutant of the text.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.kernels import reference
from zen_mlx.kernels.operands import Launch, SignOperand

GPUS = ("metal", "cuda")
Constructor = Callable[..., Callable[..., list[mx.array]]]


class Kernels(NamedTuple):
    """A backend's launches by name, and its merge."""

    launch: Mapping[str, Launch]
    merge: Callable[[mx.array, SignOperand], mx.array] | None = None


def missing(backend: str, hardware: bool) -> str | None:
    """Why this backend cannot run here, or None."""
    if backend == "cpu" and find_spec("numba") is None:
        return "numba is not installed: the extra `cpu` brings it"
    if backend not in GPUS:
        on_cuda = mx.default_device().type != mx.DeviceType.cpu and mx.cuda.is_available()
        return "MLX on CUDA multiplies in TF32 and has no 1-bit product" if on_cuda else None
    if hardware:
        available = mx.metal.is_available() if backend == "metal" else mx.cuda.is_available()
        return None if available else f"needs {'an Apple' if backend == 'metal' else 'an NVIDIA'} GPU"
    if mx.default_device().type != mx.DeviceType.cpu:
        return f"a GPU computes here: `pytest -m {'metal' if mx.metal.is_available() else 'cuda'}` runs on it"
    return None if shutil.which("g++") else "the emulator needs g++"


def places(kernel: str) -> list[tuple[bool, str, list[pytest.MarkDecorator]]]:
    """(on hardware, prefix of ids, marks): a GPU's kernel is emulated by default and runs on hardware under its mark."""
    backend = kernel.partition(".")[0]
    here: list[tuple[bool, str, list[pytest.MarkDecorator]]] = [(False, "", [])]
    return [*here, (True, "hardware-", [getattr(pytest.mark, backend)])] if backend in GPUS else here


def on_every(*kernels: str) -> pytest.MarkDecorator:
    """Parametrizes a test with (kernel, hardware)."""
    params = [pytest.param(k, hw, marks=marks, id=prefix + k) for k in kernels for hw, prefix, marks in places(k)]
    return pytest.mark.parametrize(("kernel", "hardware"), params)


def reference_kernels(module: Any = reference) -> Kernels:
    return Kernels({"unpack": module.launch, "quantized": module.launch_quantized})


@contextmanager
def kernels(
    backend: str, hardware: bool = False, wrap: Callable[[Constructor], Constructor] = lambda made: made
) -> Iterator[Kernels]:
    """`missing(backend, hardware)` must be None."""
    if backend == "reference":
        yield reference_kernels()
        return
    module: Any = import_module(f"zen_mlx.kernels.{backend}")
    if backend == "cpu":
        yield Kernels(module.KERNELS)
        return
    name = f"{backend}_kernel"
    constructor = getattr(mx.fast if hardware else import_module(f"emulators.{backend}"), name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, wrap(constructor))
        module.kernel.cache_clear()
        try:
            yield Kernels(module.KERNELS, module.merge)
        finally:
            module.kernel.cache_clear()


class Recorder:
    """Wraps a constructor: the element counts of every launch's inputs and outputs."""

    def __init__(self) -> None:
        self.elements: list[int] = []

    def __call__(self, made: Constructor) -> Constructor:
        def construct(*args: Any, **kwargs: Any) -> Callable[..., list[mx.array]]:
            kernel = made(*args, **kwargs)

            def call(*, inputs: list[Any], output_shapes: list[Any], **rest: Any) -> list[mx.array]:
                self.elements += [each.size for each in inputs if isinstance(each, mx.array)]
                self.elements += [int(np.prod(shape)) for shape in output_shapes]
                return kernel(inputs=inputs, output_shapes=output_shapes, **rest)

            return call

        return construct
