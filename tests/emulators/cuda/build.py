"""A kernel's text -> a loaded library: rewritten, compiled by g++ with calls at every load and store, linked with the runtime.

`emulators.simt.build` finds the compiler, keeps what was built and loads it; here are only the flags. The thread
sanitizer's pass puts the calls in and runtime/memory.h answers them; neither sanitizer's own library is used.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parents[1]) not in sys.path:
    sys.path.insert(0, str(HERE.parents[1]))

from emulators.simt import build as simt_build

from .rewrite import INCLUDE, rewrite

_FLAGS = (
    "-std=gnu++17",
    "-g1",
    "-fPIC",
    "-fno-omit-frame-pointer",
    "-fno-exceptions",
    "-fno-rtti",
    "-fmax-errors=4",
    "-w",
)
RUNTIME_FLAGS = (*_FLAGS, "-O2", "-fno-strict-aliasing")
KERNEL_FLAGS = (
    *_FLAGS, "-O1", "-fno-strict-aliasing", "-fno-strict-overflow", "-fno-tree-sra", "-ffp-contract=fast", "-nostdinc",
    "-fsanitize=thread,alignment,bounds,shift-exponent,integer-divide-by-zero", "--param", "tsan-instrument-func-entry-exit=0",
    "-ftrivial-auto-var-init=pattern", "-fsigned-char", "-fno-diagnostics-show-caret", "-Werror=return-type",
)  # fmt: skip


@cache
def _target_flags() -> tuple[str, ...]:
    """Where the processor has fma, products and sums are contracted, as nvcc does."""
    info = Path("/proc/cpuinfo")
    has_fma = platform.machine() == "x86_64" and info.is_file() and " fma " in info.read_text()
    return ("-mfma",) if has_fma else ()


def _digest(*parts: str | bytes) -> str:
    return hashlib.sha256(b"\0".join(p.encode() if isinstance(p, str) else p for p in parts)).hexdigest()[:24]


@cache
def _runtime() -> tuple[Path, str]:
    """The compiled runtime and a digest of all that a kernel's library depends on beside its own text."""
    compiler, version = simt_build.compiler()
    files = [*sorted(simt_build.HERE.glob("*.h")), *sorted((HERE / "runtime").iterdir()), *sorted(INCLUDE.rglob("*"))]
    digest = _digest(
        version,
        *RUNTIME_FLAGS,
        *KERNEL_FLAGS,
        *_target_flags(),
        *(f.read_bytes() for f in files if f.is_file()),
    )
    target = simt_build.cache_folder() / f"cuda-{digest}.o"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=simt_build.cache_folder()) as place:
            source = HERE / "runtime" / "runtime.cpp"
            command = [
                compiler,
                *RUNTIME_FLAGS,
                *_target_flags(),
                "-c",
                str(source),
                "-o",
                "runtime.o",
            ]
            simt_build._run(command, Path(place))
            simt_build._move(Path(place) / "runtime.o", target)
    return target, digest


@cache
def library(text: str, entry: str) -> simt_build.Library:
    """The library of a kernel's text and of the C++ that calls it. RewriteError, CompileError."""
    compiler, _ = simt_build.compiler()
    runtime, digest = _runtime()
    code = f"{rewrite(text)}\n{entry}"
    target = simt_build.cache_folder() / f"cuda-{_digest(digest, code)}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=simt_build.cache_folder()) as place:
            (Path(place) / "kernel.cu").write_text(code)
            command = [compiler, *KERNEL_FLAGS, *_target_flags(), f"-I{INCLUDE}"]
            simt_build._run([*command, "-x", "c++", "-c", "kernel.cu", "-o", "kernel.o"], Path(place))
            simt_build._run([compiler, "-shared", "kernel.o", str(runtime), "-o", "kernel.so"], Path(place))
            simt_build._move(Path(place) / "kernel.so", target)
    return simt_build.Library(target)
