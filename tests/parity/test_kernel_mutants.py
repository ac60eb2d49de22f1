"""The parity check notices a lost tail, a flipped sign and a wrong lane, row or slot in every kernel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from emulators.simt import KernelError
from parity import backends, mutants, oracle
from parity.cases import MATMULS, MERGES
from parity.mutants import MUTANTS, Mutant
from parity.operands import DTYPES, operands

from zen_mlx.kernels import dispatch

FIRST = [next(m for m in MUTANTS if m.kernel == kernel) for kernel in dict.fromkeys(m.kernel for m in MUTANTS)]


def passes(kernels: backends.Kernels, kernel: str, dtype: str) -> None:
    """AssertionError where the kernel fails the suite's check on the mutants' shape."""
    data, name = operands(mutants.shape(kernel, dtype)), kernel.partition(".")[2]
    if name != "merge":
        oracle.check(data, dispatch.run(kernels.launch[name], *data))
        return
    assert kernels.merge is not None
    sign = data.signs[0]
    s, n, _ = sign.packed.shape
    base = mutants.merge_base(s, n, data.x.shape[-1], DTYPES[dtype])
    oracle.check_merge(oracle.as_f32(base), sign, kernels.merge(base, sign))


def needs(kernel: str) -> None:
    reason = backends.missing(kernel.partition(".")[0], False)
    if reason is not None:
        pytest.skip(f"{kernel}: {reason}")


@pytest.mark.parametrize("kernel", [*MATMULS, *MERGES])
def test_the_shape_itself_passes(kernel: str) -> None:
    needs(kernel)
    with backends.kernels(kernel.partition(".")[0]) as kernels:
        passes(kernels, kernel, "f32")


def fails(mutant: Mutant, dtype: str, folder: Path) -> None:
    """By a wrong number, or by an access that the emulator stops."""
    needs(mutant.kernel)
    with mutants.mutated(mutant, folder) as kernels, pytest.raises((AssertionError, KernelError)):
        passes(kernels, mutant.kernel, dtype)


@pytest.mark.parametrize("mutant", FIRST, ids=lambda m: m.id)
def test_one_mutant_fails(mutant: Mutant, tmp_path: Path) -> None:
    fails(mutant, "f32", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.id)
def test_every_mutant_fails(mutant: Mutant, dtype: str, tmp_path: Path) -> None:
    fails(mutant, dtype, tmp_path)


def test_every_kernel_has_mutants() -> None:
    assert [m.id for m in MUTANTS if not mutants.matches(m)] == []
    counts = Counter(m.kernel for m in MUTANTS)
    assert all(counts[kernel] >= 3 for kernel in (*MATMULS, *MERGES))
