"""zen doctor: a report on this machine: its parts, what is slow or missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import paths
from . import _view
from ._options import AsJson

_SLOW_GFLOPS = 30.0
_TIMEOUT_S = 3.0
_LARGEST_ERROR = 1e-4
_INSTALL_KERNELS = 'pip install "zen-mlx[cpu]"'


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: backend, kernels, BLAS, memory, the store, the hub.

    Exits with 1 when something does not work. A slow machine is a piece of advice, not a failure.

    Examples:

    \b
      zen doctor
      zen doctor --json
    """
    import typer

    report = examine()
    if as_json:
        _view.emit(report)
    else:
        _print(report)
    if report["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """The document of `zen doctor --json`; "problems" are what does not work, "advice" what could be better."""
    problems: list[str] = []
    advice: list[str] = []
    return {
        "machine": _machine(),
        "versions": {name: version(name) for name in ("zen-mlx", "mlx", "mlx-lm", "transformers", "numpy")},
        "backend": _backend(problems, advice),
        "blas": _blas(advice),
        "memory": _memory(advice),
        "store": _store(problems),
        "base": _base(advice),
        "hub": _hub(),
        "problems": problems,
        "advice": advice,
    }


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "executable": sys.executable,
    }


def _backend(problems: list[str], advice: list[str]) -> dict[str, Any]:
    import mlx.core as mx

    from ..kernels import choice

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", choice.KernelFallbackWarning)
        uses = [use._asdict() for use in choice.survey()]
    for use in uses:
        if use["failed"]:
            problems.append(f"the kernel {use['instead_of']} fails here: {use['reason']}")
        elif use["instead_of"]:
            advice.append(f"the kernel {use['instead_of']} is missing: {use['reason']}; {_INSTALL_KERNELS}")
    error = _kernel_error()
    if not error <= _LARGEST_ERROR:
        problems.append(f"the sign product is wrong on this machine: relative error {error:.1e}")
    return {
        "name": choice.backend(),
        "device": str(mx.default_device()),
        "kernels": uses,
        "self_test_error": error,
    }


def _kernel_error() -> float:
    """max |y - y'| / max |y'| of the sign product through the door against NumPy in f64."""
    import mlx.core as mx
    import numpy as np

    from ..codec.pack import pack_signs
    from ..kernels.dispatch import sign_matmul

    random = np.random.default_rng(0)
    worst = 0.0
    for rows, n, k in ((1, 65, 70), (7, 33, 128)):
        x, delta = random.standard_normal((rows, k), np.float32), random.standard_normal((n, k), np.float32)
        row, col = random.random(n, np.float32), random.random(k, np.float32)
        wanted = (x * col).astype(np.float64) @ np.where(delta >= 0, 1.0, -1.0).T * row
        packed = mx.array(pack_signs(delta)[None])
        y = sign_matmul(
            mx.array(x), packed, row=mx.array(row[None]), col=mx.array(col[None]), y_base=mx.zeros((rows, n))
        )
        worst = max(worst, float(np.abs(np.array(y) - wanted).max() / np.abs(wanted).max()))
    return worst


def _rows(use: dict[str, Any]) -> str:
    """One use of a kernel in words: `wide up to 12 rows`."""
    first, last, name = use["first_row"], use["last_row"], use["kernel"]
    if first == 1:
        return name if last is None else f"{name} for {'one row' if last == 1 else f'up to {last} rows'}"
    return f"{name} from {first} rows" if last is None else f"{name} up to {last}"


def _blas(advice: list[str]) -> dict[str, Any]:
    from .. import blas
    from ..bench.machine import matmul_gflops
    from ..kernels.dispatch import backend

    status = blas.status()
    speed = matmul_gflops()
    if backend() == "cpu" and speed < _SLOW_GFLOPS:
        advice.append(f"matrix products run at {speed:.0f} GFLOP/s: {status.reason}")
    return {
        "name": status.name,
        "version": status.version,
        "path": status.path,
        "loaded": status.loaded,
        "reason": status.reason,
        "gflops": round(speed, 1),
    }


def _memory(advice: list[str]) -> dict[str, Any]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    try:
        free: int | None = page * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError):  # macOS does not say
        free = None
    if total < 4e9:
        advice.append(f"{_view.size(total)} of memory: training the smallest base needs about 4 GB")
    return {"total_bytes": total, "free_bytes": free}


def _store(problems: list[str]) -> dict[str, Any]:
    from ..errors import ZenError
    from ..profiles.store import ProfileStore

    home = paths.zen_home()
    damaged = []
    headers = ProfileStore(home).headers()
    for name, header in headers:
        if isinstance(header, ZenError):
            damaged.append(name)
            problems.append(f"profile {name} is damaged: {header.message}")
    existing = next((place for place in (home, *home.parents) if place.exists()), Path("/"))
    writable = os.access(existing, os.W_OK)
    if not writable:
        problems.append(f"{home} cannot be written; ZEN_HOME moves it")
    return {"home": str(home), "writable": writable, "profiles": len(headers), "damaged": damaged}


def _base(advice: list[str]) -> dict[str, Any]:
    from ..base import pull, registry

    path = pull.local_path(registry.DEFAULT_MODEL)
    if path is None:
        advice.append(f"the embedded base is not here yet: zen models pull {registry.DEFAULT_MODEL}")
    return {"name": registry.DEFAULT_MODEL, "path": None if path is None else str(path)}


def _hub() -> dict[str, Any]:
    from ..hub.settings import endpoint, is_offline

    if is_offline():
        return {"endpoint": endpoint(), "state": "offline", "reason": "HF_HUB_OFFLINE is set"}
    reason = _reach(endpoint())
    return {"endpoint": endpoint(), "state": "unreachable" if reason else "reachable", "reason": reason}


def _reach(url: str) -> str | None:
    """None when something answers at `url`, else why not."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_S):
            return None
    except urllib.error.HTTPError:
        return None  # it answered
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _print(report: dict[str, Any]) -> None:
    machine, backend, blas, memory = (report[key] for key in ("machine", "backend", "blas", "memory"))
    store, base, hub = report["store"], report["base"], report["hub"]
    free = f", {_view.size(memory['free_bytes'])} free" if memory["free_bytes"] is not None else ""
    blas_name = " ".join(filter(None, (blas["name"], blas["version"])))
    lines = [
        ("machine", f"{machine['system']}, {machine['architecture']}, {machine['cpus']} CPUs"),
        ("python", f"{machine['python']}  {machine['executable']}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in report["versions"].items())),
        ("backend", f"{backend['name']} ({backend['device']})"),
        ("kernels", "; ".join(_rows(use) for use in backend["kernels"])),
        ("self-test", f"sign product, relative error {backend['self_test_error']:.0e}"),
        ("BLAS", f"{blas_name}: {blas['gflops']:.0f} GFLOP/s ({blas['reason']})"),
        ("memory", f"{_view.size(memory['total_bytes'])}{free}"),
        ("store", f"{store['home']}, {store['profiles']} profiles" + ("" if store["writable"] else ", not writable")),
        ("base", f"{base['name']}: {base['path'] or 'not here yet'}"),
        ("hub", f"{hub['endpoint']} {hub['state']}" + (f" ({hub['reason']})" if hub["reason"] else "")),
    ]
    for label, text in lines:
        _view.say(f"  {label:<11}{_view.printable(text)}")
    for kind in ("problems", "advice"):
        for sentence in report[kind]:
            _view.say(f"  {'problem' if kind == 'problems' else 'advice':<11}{_view.printable(sentence)}")
    if not report["problems"]:
        _view.say("Everything works." + (" See the advice." if report["advice"] else ""))
