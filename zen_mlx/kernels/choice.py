"""(backend, rows, variant) -> launch: the kernel that runs, from one table of row counts.

A kernel of ours runs only after its self-test has passed in this process. What it fails, or a backend lacks, MLX's own
operations compute, and a warning says so once and why. `ZEN_KERNELS` is for people who must know: `reference` unpacks
and multiplies, `native` takes MLX's own operations, `custom` makes a failing kernel an error; unset is `auto`.
`ZEN_KERNEL_ROWS=select=64,wide=8` moves the thresholds. Both are read once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from typing import NamedTuple

import mlx.core as mx

from ..errors import ConfigError, KernelError
from . import reference, selftest
from .autograd import differentiable
from .operands import Launch, NotEvaluable, SignOperand

MODES = ("auto", "reference", "native", "custom")


class Route(NamedTuple):
    """`kernel` for up to `most_rows` rows of x (None: any number)."""

    kernel: str
    most_rows: int | None


# The first row that fits is taken; past the last one, MLX's own operations. docs/benchmarks.md has the measurements: on
# two x86 cores `select` is ahead of unpack + OpenBLAS up to 256 rows, level to 512, and by 10 times and more with slots.
ROUTES: Mapping[str, tuple[Route, ...]] = {
    "cpu": (Route("select", None),),
    "metal": (Route("matvec", 1), Route("wide", 12), Route("matmul", None)),
    "cuda": (Route("matvec", 1), Route("mma", 64), Route("unpack", None)),
}

# Without a kernel of ours: rows of x per slot from which unpack + matmul beats MLX's 1-bit product; None: never.
# Measured with 2560 x 2560 in f32 on two x86 cores: unpacking 9 ms, then 1.7-2.3 ms for 1-8 rows with OpenBLAS, against
# 5.9 ms a row. Metal's 1-bit product has its own many-row kernel. MLX on CUDA has no 1-bit product.
_UNPACK_ROWS_PER_SLOT: Mapping[str, int | None] = {"cpu": 3, "metal": None, "cuda": 0}


class KernelFallbackWarning(RuntimeWarning):
    """A kernel of ours is not used on this machine, and why."""


def backend() -> str:
    """`cpu`, `metal` or `cuda`: where MLX's default device computes."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


class Settings(NamedTuple):
    """What the environment says, read once per process."""

    mode: str
    rows: Mapping[str, int]


@cache
def settings() -> Settings:
    """`ZEN_KERNELS` and `ZEN_KERNEL_ROWS`. ConfigError where they cannot be read."""
    mode = os.environ.get("ZEN_KERNELS", "") or "auto"
    if mode not in MODES:
        raise ConfigError("unknown choice of kernels", field="ZEN_KERNELS", expected=", ".join(MODES), found=mode)
    moved: dict[str, int] = {}
    names = list(dict.fromkeys(route.kernel for table in ROUTES.values() for route in table))
    for item in filter(None, os.environ.get("ZEN_KERNEL_ROWS", "").split(",")):
        name, _, rows = item.partition("=")
        if name not in names or not rows.isdecimal():
            raise ConfigError(
                "a threshold cannot be read",
                field="ZEN_KERNEL_ROWS",
                expected=f"KERNEL=ROWS,... with a kernel of {', '.join(names)}",
                found=item,
            )
        moved[name] = int(rows)
    return Settings(mode, moved)


def routes(where: str) -> tuple[Route, ...]:
    """The table of `where`, with the thresholds that were asked for."""
    moved = settings().rows
    return tuple(Route(name, moved.get(name, most)) for name, most in ROUTES[where])


@cache
def kernels(where: str) -> Mapping[str, Launch]:
    """Our kernels for `where`, by name; empty where what they need is not installed."""
    found: Mapping[str, Launch] = import_module(f"{__package__}.{where}").KERNELS
    return found


def _native(rows: int, slots: int) -> Launch:
    threshold = _UNPACK_ROWS_PER_SLOT[backend()]
    return reference.launch if threshold is not None and rows >= threshold * slots else reference.launch_quantized


def _twin(where: str) -> Launch:
    """What is differentiated: on Metal the 1-bit product, so that no unpacked copy is made."""
    return reference.launch_quantized if where == "metal" else reference.launch


class Check(NamedTuple):
    """The outcome of one self-test: the relative error, or the reason why the kernel cannot be used."""

    kernel: str
    variant: Hashable
    error: float | None
    reason: str | None


_checks: dict[tuple[str, str, Hashable], Check] = {}
_warned: set[tuple[str, str]] = set()


def checks() -> list[Check]:
    """The self-tests made so far in this process."""
    return list(_checks.values())


def works(where: str, name: str, variant: Hashable, error: Callable[[], float], tolerance: float) -> bool:
    """Whether `error()` is within `tolerance`, found out once per process; a failure is warned about once a kernel.

    KernelError instead under `ZEN_KERNELS=custom`.
    """
    key = (where, name, variant)
    if key not in _checks:
        try:
            found = error()
        except Exception as failure:
            _checks[key] = Check(name, variant, None, f"{type(failure).__name__}: {failure}")
        else:
            reason = None if found <= tolerance else f"relative error {found:.1e}"
            _checks[key] = Check(name, variant, found, reason)
    outcome = _checks[key]
    if outcome.reason is not None:
        if settings().mode == "custom":
            raise KernelError(f"the {where} kernel {name} fails here: {outcome.reason}", hint="unset ZEN_KERNELS")
        if (where, name) not in _warned:
            _warned.add((where, name))
            warnings.warn(
                f"the {where} kernel {name} does not work here ({outcome.reason}); MLX's own operations are used "
                "instead: the same results, slower",
                KernelFallbackWarning,
                stacklevel=2,
            )
    return outcome.reason is None


@cache
def _usable(where: str, launch: Launch) -> Launch:
    """`launch` with a gradient; while MLX traces, when there is nothing to read, as MLX's operations."""

    def launch_or_trace(
        x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
    ) -> Sequence[mx.array]:
        try:
            return launch(x, signs, y_bases, slots)
        except NotEvaluable:
            return _native(x.shape[0], signs[0].packed.shape[0])(x, signs, y_bases, slots)

    return differentiable(launch_or_trace if where == "cpu" else launch, _twin(where))


_chosen: dict[Hashable, Launch] = {}


def choose(
    x: mx.array, signs: Sequence[SignOperand], y_bases: Sequence[mx.array | None], slots: mx.array | None
) -> Launch:
    """The launch for these operands; x [M, K]."""
    form = selftest.variant(x, signs, y_bases, slots)
    key = (backend(), x.shape[0], signs[0].packed.shape[0], form)
    launch = _chosen.get(key)
    if launch is None:
        launch = _chosen[key] = _choose(*key)
    return launch


def _choose(where: str, rows: int, slots: int, form: selftest.Variant) -> Launch:
    mode = settings().mode
    if mode == "reference":
        return reference.launch
    route = next((r for r in routes(where) if r.most_rows is None or rows <= r.most_rows), None)
    if route is not None and mode != "native":
        launch = kernels(where).get(route.kernel)
        if launch is not None:
            test = partial(selftest.error, launch, form)
            if works(where, route.kernel, form, test, selftest.tolerance(form)):
                return _usable(where, launch)
        elif mode == "custom":
            raise KernelError(f"the {where} kernel {route.kernel} is missing: {_missing(where)}", hint=_INSTALL)
    return _native(rows, slots)


_INSTALL = 'pip install "zen-mlx[cpu]", or unset ZEN_KERNELS'


def _missing(where: str) -> str | None:
    """Why `where` lacks its kernels."""
    return getattr(import_module(f"{__package__}.{where}"), "UNAVAILABLE", None)


def merge_kernel(base: mx.array, sign: SignOperand) -> Callable[[mx.array, SignOperand], mx.array] | None:
    """The backend's fused merge where it has one that works; base [S, N, K]."""
    where = backend()
    if where == "cpu" or settings().mode in ("reference", "native"):
        return None
    merge: Callable[[mx.array, SignOperand], mx.array] = import_module(f"{__package__}.{where}").merge
    present = tuple(field is not None for field in sign)
    test = partial(selftest.merge_error, merge, base.dtype, present)
    if works(where, "merge", (base.dtype, present), test, selftest.tolerance_of(base.dtype)):
        return merge
    return None


NATIVE = "MLX's own operations"


class Use(NamedTuple):
    """One line of the table as it stands here: `kernel` computes from `first_row` rows to `last_row`.

    error: of its self-test; None for MLX's own operations. instead_of: the kernel of ours that would stand there, and
    reason: why it does not. failed: its self-test.
    """

    first_row: int
    last_row: int | None
    kernel: str
    error: float | None = None
    instead_of: str | None = None
    reason: str | None = None
    failed: bool = False


def survey() -> list[Use]:
    """What computes x of how many rows on this machine, every kernel checked in f32 with row and column scales."""
    where, mode = backend(), settings().mode
    if mode in ("reference", "native"):
        return [Use(1, None, NATIVE, reason=f"ZEN_KERNELS={mode}")]
    form = selftest.Variant(mx.float32, mx.float32, True, True, 0, False, 1)
    uses: list[Use] = []
    first = 1
    for name, last in routes(where):
        launch = kernels(where).get(name)
        if launch is None:
            uses.append(Use(first, last, NATIVE, instead_of=name, reason=_missing(where)))
        elif works(where, name, form, partial(selftest.error, launch, form), selftest.tolerance(form)):
            uses.append(Use(first, last, name, _checks[where, name, form].error))
        else:
            reason = _checks[where, name, form].reason
            uses.append(Use(first, last, NATIVE, instead_of=name, reason=reason, failed=True))
        if last is None:
            return uses
        first = last + 1
    return [*uses, Use(first, None, NATIVE)]
