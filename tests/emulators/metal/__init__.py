"""Runs MLX's custom Metal kernels on a CPU, strictly: see README.md.

kernel = metal_emulator.metal_kernel(name=..., input_names=..., output_names=..., source=..., header=...)
outputs = kernel(inputs=..., output_shapes=..., output_dtypes=..., grid=..., threadgroup=..., template=...)
"""

import sys
from pathlib import Path

if str(Path(__file__).resolve().parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `emulators.simt`

from emulators.simt import CompileError, KernelError

from .kernel import generated, metal_kernel
from .rewrite import RewriteError

__all__ = ["CompileError", "KernelError", "RewriteError", "generated", "metal_kernel"]
