"""The CUDA kernels as nvcc takes them: translation units, the compiler that PyPI ships, SASS.

MLX compiles the same text with NVRTC on the user's machine. Results lie in `.cache/kernels`, by a digest of the text.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
for _path in (ROOT, ROOT / "tests"):
    if str(_path) not in sys.path:
        sys.path.append(str(_path))

from zen_mlx.kernels import cuda_text

# isort: split
import mlx.core as mx
from emulators.cuda.source import INCLUDES, kernel_text, signature

TARGETS = (80, 89, 90)
CACHE = ROOT / ".cache" / "kernels"

# What a kernel may use of MLX's header of this name.
_UTILS = """#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda/std/array>
namespace mlx::core::cu {
using Shape = cuda::std::array<int32_t, 10>;
using Strides = cuda::std::array<int64_t, 10>;
}
"""


class Built(NamedTuple):
    """A compiled unit: the fat binary, and what nvcc and ptxas said."""

    binary: Path
    log: str


class Resources(NamedTuple):
    """ptxas on one kernel for one target."""

    kernel: str
    target: str
    registers: int
    spill_bytes: int


def toolkit() -> Path | None:
    """The folder whose bin/ has nvcc: the wheels' of this environment, else the system's; None without one."""
    for place in {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}:
        for found in sorted(Path(place).glob("nvidia/cu*/bin/nvcc")):
            return found.parent.parent
    system = shutil.which("nvcc")
    return Path(system).resolve().parent.parent if system else None


def _run(home: Path, command: Sequence[str]) -> str:
    """stdout and stderr. RuntimeError with both on failure."""
    env = dict(os.environ, PATH=f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def _operand(name: str, form: cuda_text.CudaForm) -> tuple[mx.Dtype, int]:
    """dtype and number of dimensions of a kernel's input."""
    kinds = {"slots": (mx.int32, 1), "sizes": (mx.int32, 1), "packed": (mx.uint32, 3), "row": (mx.float32, 2)}
    kinds |= {"col": (mx.float32, 2), "block": (mx.float32, 3), "base": (form.y, 3 if form.file == "merge" else 2)}
    kinds["x"] = (form.x, 3 if form.file == "mma" else 2)
    return kinds[name.rstrip("0123456789")]


def unit(forms: Sequence[cuda_text.CudaForm]) -> str:
    """The text MLX would compile for each form of one kernel file, as one translation unit."""
    header, kernels = cuda_text.text(forms[0]).header, ""
    for form in forms:
        text = cuda_text.text(form)
        if text.header != header:
            raise ValueError(f"two files in one unit: {form.file} and {forms[0].file}")
        inputs = [_operand(name, form) for name in text.input_names]
        arguments = signature(text.input_names, inputs, text.output_names, [form.y] * form.planes, text.source)
        kernels += kernel_text(text.name, "", text.source, arguments, ()).removeprefix(INCLUDES)
    return INCLUDES + header + kernels


def compiled(text: str, home: Path, targets: Sequence[int] = TARGETS) -> Built:
    """nvcc's output for the text, every warning an error. RuntimeError with its words otherwise."""
    flags = ["-std=c++17", "-fatbin", "--threads", "2", "-Xptxas", "-v", "-Werror", "all-warnings"]
    flags += [f"-gencode=arch=compute_{t},code=sm_{t}" for t in targets]
    digest = hashlib.sha256(repr((text, _UTILS, flags, str(home))).encode()).hexdigest()[:24]
    binary, log = CACHE / f"{digest}.fatbin", CACHE / f"{digest}.log"
    if not (binary.is_file() and log.is_file()):
        utils = CACHE / "include" / "mlx" / "backend" / "cuda" / "device" / "utils.cuh"
        utils.parent.mkdir(parents=True, exist_ok=True)
        utils.write_text(_UTILS)
        source, fresh = CACHE / f"{digest}.cu", CACHE / f"{digest}.{os.getpid()}"
        source.write_text(text)
        includes = [f"-I{CACHE / 'include'}", f"-I{home / 'include'}", f"-I{home / 'include' / 'cccl'}"]
        said = _run(home, ["nvcc", *flags, *includes, "-o", str(fresh), str(source)])
        log.write_text(said)
        fresh.rename(binary)
    return Built(binary, log.read_text())


def resources(log: str) -> list[Resources]:
    """ptxas -v, kernel by kernel."""
    pattern = (
        r"Compiling entry function '(\S+)' for '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers"
    )
    return [Resources(m[1], m[2], int(m[5]), int(m[3]) + int(m[4])) for m in re.finditer(pattern, log, re.DOTALL)]


def sass(binary: Path, home: Path, target: int) -> dict[str, list[str]]:
    """Kernel -> its SASS lines (address and instruction) for one target."""
    found: dict[str, list[str]] = {}
    for line in _run(home, ["cuobjdump", "-sass", "-arch", f"sm_{target}", str(binary)]).splitlines():
        if name := re.match(r"\s*Function : (\S+)", line):
            found[name[1]] = []
        elif found and re.match(r"\s+/\*[0-9a-f]{4,6}\*/\s+\S", line):
            found[list(found)[-1]].append(line)
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
