"""The fast BLAS: on Linux without a GPU, MLX's cblas_sgemm is that of the best library on this machine.

The CPU build of MLX carries the reference BLAS: 2 to 5 GFLOP/s where OpenBLAS reaches 180 on the same two cores. A
library with plain `cblas_*` symbols, loaded globally BEFORE `mlx.core`, is the one MLX's calls resolve to. `load` runs
when `zen_mlx` is imported. Tried in order: the ngsolve-openblas wheel (0.3.31 or newer), MKL, the system's OpenBLAS
(distributions ship versions of a third of the speed). On macOS and with MLX's CUDA build none is loaded.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h
_FAST_OPENBLAS = (0, 3, 31)
_INSTALL = "pip install ngsolve-openblas (x86-64), or the distribution's libopenblas0"


class ImportOrderWarning(RuntimeWarning):
    """`mlx` was imported before `zen_mlx`, so MLX is bound to its slow BLAS."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Which BLAS MLX's matrix products go to; `loaded` is false where MLX's own is used, and `reason` says why."""

    name: str
    path: str | None
    version: str | None
    loaded: bool
    reason: str


_status: Status | None = None


def status() -> Status:
    """What `load` did, doing it if it has not run."""
    return _status if _status is not None else load()


def load() -> Status:
    """Make the best BLAS visible to MLX, once per process; warns with `ImportOrderWarning` when it is too late."""
    global _status
    if _status is None:
        _status = _load()
    return _status


def _load() -> Status:
    if sys.platform != "linux":
        return Status("MLX's own", None, None, False, "not needed on this platform")
    _keep_freed_memory()
    site = _site_of_mlx()
    if site is None:
        return Status("none", None, None, False, "MLX is not installed")
    if any(site.glob("mlx_cuda*.dist-info")):
        return Status("MLX's own", None, None, False, "not needed: MLX's CUDA build is installed")
    if hasattr(ctypes.CDLL(None), "cblas_sgemm"):
        return Status("preloaded", None, None, True, "this process had a global BLAS already")
    if "mlx.core" in sys.modules:
        reason = "mlx was imported before zen_mlx, so MLX uses its slow reference BLAS; import zen_mlx first"
        warnings.warn(reason, ImportOrderWarning, stacklevel=4)
        return Status("MLX's reference BLAS", None, None, False, reason)
    # Idle OpenBLAS threads spin for ~20 ms by default, which takes the cores from MLX's own threads and everyone else's.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")
    failures = []
    candidates: tuple[tuple[str, Callable[[], tuple[ctypes.CDLL, str] | None]], ...] = (
        ("ngsolve-openblas", lambda: _open_wheel(site)),
        ("MKL", _open_mkl),
        ("OpenBLAS", _open_system),
    )
    for name, attempt in candidates:
        try:
            opened = attempt()
        except OSError as error:
            failures.append(f"{name}: {error}")
            continue
        if opened is not None:
            return _describe(name, *opened)
    reason = "; ".join(failures) if failures else f"no fast BLAS found: {_INSTALL}"
    return Status("MLX's reference BLAS", None, None, False, reason)


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next array instead of giving it back to the system.

    MLX frees and allocates hundreds of megabytes at every training step; mapping them anew each time cost a third of it.
    NumPy's temporaries are a megabyte each where a checkpoint is encoded: a subtraction took ten times as long.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
            libc.mallopt(option, value)


def _open_wheel(site: Path) -> tuple[ctypes.CDLL, str] | None:
    """OpenBLAS from the ngsolve-openblas wheel.

    It needs libgfortran.so.5 beside itself or on the system. MLX's wheel carries one under another file name, so both
    are linked into a folder of their own; once loaded the folder is not needed any more.
    """
    spec = importlib.util.find_spec("ngsolve_openblas")
    places = spec.submodule_search_locations if spec is not None else None
    found = sorted(file for place in places or () for file in Path(place).glob("libopenblas*.so*"))
    if not found:
        return None
    library = found[-1]
    try:
        return _open(library), str(library)
    except OSError:
        runtime = {
            "libgfortran.so.5": next(site.glob("mlx_cpu.libs/libgfortran-*.so.5*"), None),
            **{file.name: file for file in site.glob("mlx_cpu.libs/libquadmath-*.so*")},
        }
        if runtime["libgfortran.so.5"] is None:
            raise
        with tempfile.TemporaryDirectory(prefix="zen-blas-") as folder:
            for name, target in {"libopenblas.so": library, **runtime}.items():
                if target is not None:
                    (Path(folder) / name).symlink_to(target.resolve())
            return _open(Path(folder) / "libopenblas.so"), str(library)


def _open_mkl() -> tuple[ctypes.CDLL, str] | None:
    places = [Path(sys.prefix) / "lib" / name for name in ("libmkl_rt.so.3", "libmkl_rt.so.2")]
    for path in places:
        if path.exists():
            return _open(path), str(path)
    return _by_name("libmkl_rt.so.3") or _by_name("libmkl_rt.so.2")


def _open_system() -> tuple[ctypes.CDLL, str] | None:
    return _by_name("libopenblas.so.0")


def _by_name(name: str) -> tuple[ctypes.CDLL, str] | None:
    """A library the system's loader knows, None when it knows none of that name."""
    try:
        return _open(name), name
    except OSError as error:
        # The loader names the file it misses: another one means that `name` is there but broken.
        if str(error).startswith(f"{name}:"):
            return None
        raise


def _open(library: str | Path) -> ctypes.CDLL:
    handle = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    if not hasattr(handle, "cblas_sgemm"):
        raise OSError(f"{library} has no cblas_sgemm")
    return handle


def _describe(name: str, library: ctypes.CDLL, path: str) -> Status:
    version = _openblas_version(library)
    reason = "loaded before MLX"
    if version is not None and _numbers(version) < _FAST_OPENBLAS:
        reason = f"loaded before MLX; versions before 0.3.31 are slower: {_INSTALL}"
    return Status(name, path, version, True, reason)


def _openblas_version(library: ctypes.CDLL) -> str | None:
    """ "0.3.33" out of `openblas_get_config() -> "OpenBLAS 0.3.33 DYNAMIC_ARCH ..."`, None for other libraries."""
    if not hasattr(library, "openblas_get_config"):
        return None
    call = library.openblas_get_config
    call.restype = ctypes.c_char_p
    words = (call() or b"").decode("ascii", "replace").split()
    return words[1] if len(words) > 1 else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _site_of_mlx() -> Path | None:
    """The folder MLX is installed in, found without importing it."""
    spec = importlib.util.find_spec("mlx")
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []
    # A folder "mlx" where the program was started is a part of the package, too.
    return next((place.parent for place in places if any(place.glob("core.*"))), None)
