"""Broken kernels: one substitution in a kernel's text each, which the parity suite must notice.

A mutant of a GPU kernel changes the text that reaches the constructor; one of a Python kernel changes its module's.
A substitution that matches nothing is an AssertionError: the kernel was rewritten, and its mutants must follow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

import zen_mlx

from . import backends
from .cases import Case
from .operands import generator

PACKAGE = Path(zen_mlx.__file__).parent


class Mutant(NamedTuple):
    """`kernel` with every `old` in its text replaced by `new`; `fault` says what that breaks."""

    kernel: str
    fault: str
    old: str
    new: str

    @property
    def id(self) -> str:
        return f"{self.kernel}-{self.fault.replace(' ', '_')}"


MUTANTS = (
    Mutant("reference.unpack", "lost tail", "return signs.reshape(*packed.shape[:-1], -1)[..., :k]",
           "return (signs.reshape(*packed.shape[:-1], -1) * (mx.arange(packed.shape[-1] * 32) < k // 32 * 32))[..., :k]"),
    Mutant("reference.unpack", "flipped sign", "(bits * 2 - 1)", "(1 - bits * 2)"),
    Mutant("reference.unpack", "wrong slot", "rhs_indices=slots)[:, 0]", "rhs_indices=slots[::-1])[:, 0]"),
    Mutant("reference.quantized", "lost tail", "y = mx.gather_qmm(x[:, None]",
           "y = mx.gather_qmm((x * (mx.arange(x.shape[-1]) < k // 32 * 32))[:, None]"),
    Mutant("reference.quantized", "flipped sign", "return 2 * half, -half, group", "return -2 * half, half, group"),
    Mutant("reference.quantized", "wrong slot", "rhs_indices=slots, transpose", "rhs_indices=slots[::-1], transpose"),
    Mutant("cpu.select", "wrong lane", "32)), ir.Constant(_I64, first))", "32)), ir.Constant(_I64, first ^ _LANES))"),
    Mutant("cpu.select", "lost tail", "out=xs[:, : x.shape[1]])",
           "out=xs[:, : x.shape[1]]); xs[:, x.shape[1] // 32 * 32 :] = 0"),
    Mutant("cpu.select", "flipped sign", "_INTS), _SIGN_BITS) for p in blocks",
           "_INTS), ir.Constant(_INTS, [0] * _LANES)) for p in blocks"),
    Mutant("cpu.select", "wrong row", "order[first + min(1, count - 1)]", "order[first]"),
    Mutant("metal.matvec", "wrong lane", "lane == uint(r) ? total", "lane == uint(r ^ 1) ? total"),
    Mutant("metal.matvec", "lost tail", "if (full < shape.W && lane == full % 32)", "if (full > shape.W)"),
    Mutant("metal.matvec", "flipped sign", "fma(scale[r], sign_dot(", "fma(-scale[r], sign_dot("),
    Mutant("metal.matvec", "wrong slot", "const int slot = slots[m];", "const int slot = slots[m / 2];"),
    Mutant("metal.wide", "lost tail", "if (full < shape.W && lane == full % 32)", "if (full > shape.W)"),
    Mutant("metal.wide", "flipped sign", "fma(scale[r], sign_dot(", "fma(-scale[r], sign_dot("),
    Mutant("metal.wide", "wrong row", "lane == uint(i * ROWS + r) ?", "lane == uint(i * ROWS + (r ^ 1)) ?"),
    Mutant("metal.wide", "wrong slot", "members |= slot[i] == current", "members |= slot[i] >= 0"),
    Mutant("metal.matmul", "flipped sign", "(1u << i) ? scale : -scale", "(1u << i) ? -scale : scale"),
    Mutant("metal.matmul", "lost tail", "word < shape.W; word++", "word < shape.K / 32; word++"),
    Mutant("metal.matmul", "wrong lane", "(1u << i) ? scale : -scale", "(1u << (i ^ 1)) ? scale : -scale"),
    Mutant("metal.matmul", "wrong slot", "if (ids[local] == slot)", "if (ids[local] >= 0)"),
    Mutant("metal.merge", "wrong slot", "ulong(n / shape.N) * shape.K", "ulong(n % 1) * shape.K"),
    Mutant("metal.merge", "lost tail", "if (FULL || i < count)", "if (FULL)"),
    Mutant("metal.merge", "flipped sign", "(1u << i) ? scale : -scale", "(1u << i) ? -scale : scale"),
    Mutant("metal.merge", "wrong lane", "(1u << i) ? scale : -scale", "(1u << (i ^ 1)) ? scale : -scale"),
    Mutant("cuda.matvec", "wrong lane", "MATVEC_ROWS + (lane >> 2)] = total", "MATVEC_ROWS + ((lane >> 2) ^ 1)] = total"),
    Mutant("cuda.matvec", "lost tail", "const int valid = K - first - i;", "const int valid = (K & ~31) - first - i;"),
    Mutant("cuda.matvec", "flipped sign", "out *= 2.0f;", "out *= -2.0f;"),
    Mutant("cuda.matvec", "wrong slot", "nullptr ? 0 : slots[m];", "nullptr ? 0 : slots[m / 2];"),
    Mutant("cuda.mma", "lost tail", "from, word < W)", "from, word < W - 1)"),
    Mutant("cuda.mma", "flipped sign", "{ return 0xBF80BF80u; }", "{ return 0x3F803F80u; }"),
    Mutant("cuda.mma", "wrong lane", "8 * (e >> 1) + g] = total", "8 * (e >> 1) + (g ^ 1)] = total"),
    Mutant("cuda.mma", "wrong slot", "packed + static_cast<size_t>(slot) * N * W", "packed + size_t(0 * slot) * N * W"),
    Mutant("cuda.unpack", "wrong row", "packed[n * W + (k >> 5)]", "packed[n / 2 * W + (k >> 5)]"),
    Mutant("cuda.unpack", "lost tail", "* N + n) * K + k] = rounded;", "* N + n) * K + k] = k < (K & ~31) ? rounded : 0.0f;"),
    Mutant("cuda.unpack", "flipped sign", "& 1u) != 0 ? scale", "& 1u) == 0 ? scale"),
    Mutant("cuda.unpack", "wrong lane", ">> (k & 31)", ">> ((k ^ 1) & 31)"),
    Mutant("cuda.merge", "lost tail", "(base[n * K + k]) + v)", "(base[n * K + k]) + (k < (K & ~31) ? v : 0.0f))"),
    Mutant("cuda.merge", "flipped sign", "& 1u) != 0 ? scale", "& 1u) == 0 ? scale"),
    Mutant("cuda.merge", "wrong slot", "col[n / N * K + k]", "col[n % N / N * K + k]"),
)  # fmt: skip


def shape(kernel: str, dtype: str = "f32") -> Case:
    """The shape that every mutant must fail on: partial tiles and words, several slots, both scales.

    `cuda.unpack` leaves several slots to `cuda.mma`.
    """
    index = "none" if kernel == "cuda.unpack" else "unsorted"
    return Case(kernel, dtype, "rowcol", index, 100, 9, 13, "same", "contiguous", 2, "random", "normal", 1)


def merge_base(s: int, n: int, k: int, dtype: mx.Dtype) -> mx.array:
    """[S, N, K] of N(0, 1)."""
    return mx.array(generator("merge", s, n, k).standard_normal((s, n, k)).astype(np.float32)).astype(dtype)


def _texts(kernel: str) -> dict[str, str]:
    """The texts that a substitution may match: modules, or the files of a GPU kernel's folder."""
    backend = kernel.partition(".")[0]
    if backend in backends.GPUS:
        folder = f"{backend}_kernels"
        place = next(path for path in (PACKAGE / folder, PACKAGE.parent / folder) if path.is_dir())
        return {path.name: path.read_text() for path in place.iterdir() if path.suffix != ".md"}
    names = [backend, "cpu_select"] if backend == "cpu" else [backend]
    return {name: (PACKAGE / "kernels" / f"{name}.py").read_text() for name in names}


def matches(mutant: Mutant) -> bool:
    return any(mutant.old in text for text in _texts(mutant.kernel).values())


def _substituted(mutant: Mutant, matched: list[int]) -> Callable[[backends.Constructor], backends.Constructor]:
    def wrap(made: backends.Constructor) -> backends.Constructor:
        def construct(*args: Any, **kwargs: Any) -> Callable[..., list[mx.array]]:
            given = dict(zip(("name", "input_names", "output_names", "source", "header"), args, strict=False)) | kwargs
            for field in ("source", "header"):
                text = given.get(field, "")
                matched.append(text.count(mutant.old))
                given[field] = text.replace(mutant.old, mutant.new)
            return made(**given)

        return construct

    return wrap


@contextmanager
def mutated(mutant: Mutant, folder: Path) -> Iterator[backends.Kernels]:
    """The backend's kernels with the fault in; `folder` is for a module's text."""
    backend = mutant.kernel.partition(".")[0]
    if backend in backends.GPUS:
        matched: list[int] = []
        with backends.kernels(backend, wrap=_substituted(mutant, matched)) as found:
            yield found
        assert sum(matched), f"{mutant.old!r} is not in the text of {mutant.kernel}"
        return
    texts = _texts(mutant.kernel)
    (home,) = (name for name, text in texts.items() if mutant.old in text)
    path = folder / f"mutant_{home}.py"
    path.write_text(texts[home].replace(mutant.old, mutant.new))
    spec = importlib.util.spec_from_file_location(f"zen_mlx.kernels.mutant_{home}", path)
    assert spec is not None
    assert spec.loader is not None
    broken: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(broken)
    if backend == "reference":
        yield backends.reference_kernels(broken)
    elif home == "cpu":
        yield backends.Kernels(broken.KERNELS)
    else:
        with pytest.MonkeyPatch.context() as patch:
            cpu: Any = import_module("zen_mlx.kernels.cpu")
            patch.setattr(cpu, home, broken)
            yield backends.Kernels(cpu.KERNELS)
