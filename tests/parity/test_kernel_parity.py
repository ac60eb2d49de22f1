"""Every kernel of every backend against float64, on one set of cases; `oracle` derives the tolerance.

`-m metal` and `-m cuda` run the same cases on hardware; the default run emulates both.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from parity import backends, oracle
from parity.cases import (
    CLASSES,
    DTYPES,
    FACTORS,
    MATMULS,
    MERGES,
    PAIRED,
    SCALES,
    Case,
    covering,
    merge_cases,
    product,
    shown,
    valid,
)
from parity.cases import values as values_of
from parity.operands import merge_operands, operands
from parity.table import TABLE, Table

from zen_mlx.kernels import dispatch


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    return request.config.stash[TABLE]


def params(cases: tuple[Case, ...], *marks: pytest.MarkDecorator) -> list:
    return [
        pytest.param(case, hardware, marks=(*marks, *own), id=prefix + case.id)
        for case in cases
        for hardware, prefix, own in backends.places(case.kernel)
    ]


def run_case(case: Case, hardware: bool, use, table) -> None:
    backend, name = case.kernel.split(".")
    launch = use(backend, hardware).launch[name]
    data = operands(case)
    ratio = oracle.check(data, dispatch.run(launch, *data))
    if case.m:
        table.add(hardware, case.kernel, case.dtype, case.scale, ratio)


@pytest.mark.parametrize(("case", "hardware"), params(covering()))
def test_case(case: Case, hardware: bool, use, table) -> None:
    run_case(case, hardware, use, table)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES)
@backends.on_every(*MATMULS)
def test_full_product(kernel: str, dtype: str, scale: str, hardware: bool, use, table) -> None:
    """Every index pattern with every class of shapes; the names of the cases that fail."""
    failed = {}
    for case in product(kernel, dtype, scale):
        try:
            run_case(case, hardware, use, table)
        except AssertionError as error:
            failed[case.id] = str(error).splitlines()[:1]
    assert not failed


@pytest.mark.parametrize(("dtype", "scale"), merge_cases())
@backends.on_every(*MERGES)
def test_merge(kernel: str, dtype: str, scale: str, hardware: bool, use, table) -> None:
    """merge == base + row * sign * block * col bit for bit, a new array of base's dtype."""
    merge = use(kernel.partition(".")[0], hardware).merge
    for base, sign in merge_operands(dtype, scale):
        kept = oracle.as_f32(base)
        found = merge(base, sign)
        assert found.dtype == base.dtype
        oracle.check_merge(kept, sign, found)
        np.testing.assert_array_equal(oracle.as_f32(base), kept)
    table.add(hardware, kernel, dtype, scale, 0)


def test_covering_set_is_what_it_claims() -> None:
    """Every possible pair of values of two factors, K, N and M by class; every K, N and M with every kernel."""
    found: set[tuple] = {each for case in covering() for each in shown(case)}
    assert all(valid(case._asdict()) for case in covering())
    sized = ("k", "n", "m", "scale", "index", "ndim")  # the factors that restrict one another
    possible: set[tuple] = set()
    for combination in itertools.product(*(FACTORS[name] for name in sized)):
        c = dict(zip(sized, combination, strict=True))
        if valid(c):
            c |= {name: classify(c[factor]) for name, (factor, classify) in CLASSES.items()}
            own = [name for name in PAIRED if name in c]
            possible |= {(a, c[a], b, c[b]) for a, b in itertools.combinations(own, 2)}
            possible |= {(size, c[size]) for size in ("k", "n", "m")}
    assert {(size, value) for size in ("k", "n", "m") for value in FACTORS[size]} <= possible
    restricted = {*sized, *CLASSES}
    for a, b in itertools.combinations(PAIRED, 2):
        for va, vb in itertools.product(values_of(a), values_of(b)):
            if not {a, b} <= restricted or (a, va, b, vb) in possible:
                assert (a, va, b, vb) in found
    for kernel, size in itertools.product(MATMULS, ("k", "n", "m")):
        assert all(("kernel", kernel, size, value) in found for value in FACTORS[size])


def test_the_full_product_is_full() -> None:
    """Every index pattern with every class of K, N and M that some sizes allow, and every K, N and M."""
    cases = list(product("cpu.select", "f32", "rowcol"))
    assert all(valid(case._asdict()) for case in cases)
    assert len(set(cases)) == len(cases)
    found = {(c.index, *(classify(getattr(c, factor)) for factor, classify in CLASSES.values())) for c in cases}
    possible = set()
    for index, k, n, m in itertools.product(*(FACTORS[name] for name in ("index", "k", "n", "m"))):
        if valid({"scale": "rowcol", "index": index, "k": k, "n": n, "m": m}):
            possible.add((index, *(classify(v) for (_, classify), v in zip(CLASSES.values(), (k, n, m), strict=True))))
    assert found == possible
    for factor in ("k", "n", "m"):
        assert {getattr(case, factor) for case in cases} == set(FACTORS[factor])


def test_sizes_of_the_covering_set() -> None:
    assert 300 <= len(covering()) + len(MERGES) * len(merge_cases()) <= 400
    assert len({case.id for case in covering()}) == len(covering())


def test_table_has_no_hole(request: pytest.FixtureRequest, table: Table) -> None:
    """Every kernel meets every dtype with every scale kind: in the covering set, and in what has passed in this run."""
    planned = Counter((case.kernel, case.dtype, case.scale) for case in covering() if case.m)
    assert all(planned[each] for each in itertools.product(MATMULS, DTYPES, SCALES))
    count = sum(item.originalname in ("test_case", "test_merge") for item in request.session.items)
    if count >= len(covering()) + len(MERGES) * len(merge_cases()):
        assert not table.holes()
