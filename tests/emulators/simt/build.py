"""C++ text -> a loaded shared library, compiled once: kept under `kernels/` of `$ZEN_TEST_CACHE`, else of `.cache/`.

The headers given are precompiled once for each set of flags, so that a kernel takes a fraction of a second.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = (
    "-std=gnu++17", "-O1", "-g1", "-fPIC", "-fno-omit-frame-pointer", "-fno-exceptions", "-fno-rtti", "-fsigned-char",
    "-ffp-contract=off", "-fno-strict-aliasing", "-fno-strict-overflow", "-fmax-errors=4", "-fno-diagnostics-show-caret", "-w",
)  # fmt: skip


class CompileError(Exception):
    """The kernel's text does not compile; the message is the compiler's."""


class KernelError(Exception):
    """A launch was stopped; the message names kernel, thread, line and what was wrong."""


def cache_folder() -> Path:
    """`kernels/` in the tests' cache; made when absent."""
    root = Path(os.environ.get("ZEN_TEST_CACHE") or HERE.parents[2] / ".cache").absolute()
    (root / "kernels").mkdir(parents=True, exist_ok=True)
    return root / "kernels"


@cache
def compiler() -> tuple[str, str]:
    """g++'s path and version. CompileError where there is none."""
    path = os.environ.get("CXX") or shutil.which("g++")
    if not path:
        raise CompileError("g++ is not installed")
    return path, subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


@cache
def precompiled(headers: tuple[Path, ...], flags: tuple[str, ...] = ()) -> tuple[Path, str]:
    """A folder with copies of the headers, the last one of them precompiled, and a digest of all that went into it."""
    path, version = compiler()
    every = [*sorted(HERE.glob("*.h")), *headers]
    digest = hashlib.sha256("\0".join([version, *FLAGS, *flags]).encode())
    for header in every:
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    name = digest.hexdigest()[:16]
    folder = cache_folder() / f"headers-{name}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as place:
            made = Path(place) / "made"
            made.mkdir()
            for header in every:
                shutil.copyfile(header, made / header.name)
            _run([path, *FLAGS, *flags, "-x", "c++-header", headers[-1].name, "-o", f"{headers[-1].name}.gch"], made)
            _move(made, folder)
    return folder, name


def _move(made: Path, place: Path) -> None:
    try:
        made.replace(place)
    except OSError:
        if not place.exists():  # else another process was first, with the same content
            raise


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise CompileError(result.stderr)


class Library:
    """A compiled kernel. `call(*arguments)` runs its entry `simt_launch`; KernelError with the text it left otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.simt_error.restype = ctypes.c_char_p
        self.library.simt_error_place.restype = ctypes.c_size_t

    def call(self, *arguments: object) -> None:
        if self.library.simt_launch(*arguments) != 0:
            text = self.library.simt_error().decode(errors="replace")
            raise KernelError(text if " (at " in text else text + self.place())

    def place(self) -> str:
        """` (at FILE:LINE, called at LINE)`: the places in the kernel's text where the launch was stopped; "" if unknown."""
        tool = shutil.which("addr2line")
        addresses = [hex(self.library.simt_error_place(i)) for i in range(12)]
        if not tool:
            return ""
        command = [tool, "-i", "-e", str(self.path), *(a for a in addresses if a != "0x0")]
        found = re.findall(r"^(.*?):(\d+)", subprocess.run(command, capture_output=True, text=True).stdout, re.M)
        places = [f"{Path(file).name}:{line}" for file, line in found if not file.endswith((".h", ".cpp", "??"))]
        return f" (at {', called at '.join(places)})" if places else ""


@cache
def compile_kernel(text: str, headers: tuple[Path, ...], flags: tuple[str, ...] = ()) -> Library:
    """The library of a C++ text that starts with `#include` of the last of `headers`. CompileError: the compiler's words."""
    path, _ = compiler()
    folder, digest = precompiled(headers, flags)
    key = hashlib.sha256(f"{digest}\0{text}".encode()).hexdigest()[:24]
    target = cache_folder() / f"{key}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as place:
            (Path(place) / "kernel.cpp").write_text(text)
            _run([path, *FLAGS, *flags, "-c", f"-I{folder}", "kernel.cpp", "-o", "kernel.o"], Path(place))
            _run([path, "-shared", "kernel.o", "-o", "kernel.so"], Path(place))
            _move(Path(place) / "kernel.so", target)
    return Library(target)
