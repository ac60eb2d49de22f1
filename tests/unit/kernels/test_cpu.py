"""The CPU kernel against the equation in float64: the error is within f32 roundings of its terms, and one of the result."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.kernels import cpu
from zen_mlx.kernels.operands import SignOperand

pytestmark = pytest.mark.skipif(cpu.UNAVAILABLE is not None, reason=str(cpu.UNAVAILABLE))

SCALES = ("none", "row", "col", "rowcol", "block32", "block64", "block128", "block256", "row+block32", "rowcol+block64")
DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}


def plane(rng: np.random.Generator, scale: str, s: int, n: int, k: int) -> SignOperand:
    """Random words, pad bits included, and the scales that `scale` names."""
    packed = rng.integers(0, 2**32, (s, n, -(-k // 32)), dtype=np.uint32)
    factors, _, size = scale.partition("block")
    shapes = {"row": (s, n), "col": (s, k)} | ({"block": (s, n, -(-k // int(size)))} if size else {})
    scales = {
        name: mx.array(rng.uniform(0.5, 2, shape).astype(np.float32))
        for name, shape in shapes.items()
        if name in factors or name == "block"
    }
    return SignOperand(mx.array(packed), **scales)


def values(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def weight(sign: SignOperand, slot: int, k: int, block: int) -> np.ndarray:
    """sign * block [N, K], f32."""
    bits = np.unpackbits(np.array(sign.packed[slot]).view(np.uint8), axis=-1, bitorder="little")[:, :k]
    signs = bits.astype(np.float32) * 2 - 1
    return signs if sign.block is None else signs * np.repeat(values(sign.block)[slot], block, axis=-1)[:, :k]


def check(
    x: mx.array, sign: SignOperand, y_base: mx.array | None, slots: Sequence[int] | None, y: mx.array, block: int = 32
) -> None:
    (m, k), (s, n, _) = x.shape, sign.packed.shape
    dtype = x.dtype if y_base is None else y_base.dtype
    assert y.shape == (m, n)
    assert y.dtype == dtype
    exact = np.zeros((m, n)) if y_base is None else values(y_base).astype(np.float64)
    terms = np.abs(exact)
    for i, slot in enumerate([0] * m if slots is None else slots):
        if not 0 <= slot < s:
            assert np.array_equal(values(y)[i], values(mx.array(exact[i].astype(np.float32)).astype(dtype)))
            continue
        row = np.ones(n) if sign.row is None else values(sign.row)[slot].astype(np.float64)
        col = np.ones(k) if sign.col is None else values(sign.col)[slot].astype(np.float64)
        dense, xs = weight(sign, slot, k, block).astype(np.float64), col * values(x)[i]
        exact[i] += row * (dense @ xs)
        terms[i] += row * (np.abs(dense) @ np.abs(xs))
    # K f32 roundings, each of at most 2^-24 of the terms' magnitudes and of either sign, and one to the result's type.
    unit = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[dtype]
    assert (np.abs(values(y) - exact) <= 2.0**-24 * (2 + np.sqrt(k)) * terms + unit * np.abs(exact)).all()


def run(
    x: mx.array, signs: list[SignOperand], bases: list[mx.array | None], slots: Sequence[int] | None
) -> list[mx.array]:
    ids = None if slots is None else mx.array(np.array(slots, np.int32))
    return list(cpu.KERNELS["select"](x, signs, bases, ids))


ROWS, WIDTHS, HEIGHTS = (*range(1, 14), 33), (1, 31, 32, 33, 100, 544), (1, 7, 33)
SIZES = list(itertools.product(ROWS, WIDTHS, HEIGHTS))


@pytest.mark.parametrize("number", range(len(SIZES)), ids=lambda i: "M{}-K{}-N{}".format(*SIZES[i]))
def test_every_shape(number: int) -> None:
    """All M x K x N; dtypes, scales, slots, groups and y_base take turns."""
    m, k, n = SIZES[number]
    rng = np.random.default_rng(number)
    scale = SCALES[number % len(SCALES)]
    dtype = DTYPES[("f32", "bf16", "f16")[(number // 2) % 3]]
    block = int(scale.partition("block")[2] or 32)
    slots = None if number % 3 == 0 else rng.integers(-1, 4, m).tolist()
    heights = [n, n + 5, 3][: 1 + number % 3]
    x = mx.array((rng.standard_normal((m, k)) + (100 if number % 4 == 1 else 0)) / 8).astype(dtype)
    base_dtype = (None, dtype, mx.float32)[number % 5 % 3]
    signs = [plane(rng, scale, 3, height, k) for height in heights]
    bases = [None if base_dtype is None else mx.random.normal((m, height)).astype(base_dtype) for height in heights]
    for sign, base, y in zip(signs, bases, run(x, signs, bases, slots), strict=True):
        check(x, sign, base, slots, y, block)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 9])
def test_every_scale_with_a_large_mean(scale: str, m: int) -> None:
    rng = np.random.default_rng(m)
    x = mx.array((100 + rng.standard_normal((m, 2880))).astype(np.float32))
    sign = plane(rng, scale, 1, 9, 2880)
    (y,) = run(x, [sign], [None], None)
    check(x, sign, None, None, y, int(scale.partition("block")[2] or 32))


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_equal_signs_with_a_large_mean(word: int) -> None:
    x = mx.array((100 + np.random.default_rng(0).standard_normal((5, 1000))).astype(np.float32))
    sign = SignOperand(mx.full((1, 33, 32), word, dtype=mx.uint32))
    check(x, sign, None, None, run(x, [sign], [None], None)[0])


def test_views_are_read_as_they_lie() -> None:
    rng = np.random.default_rng(0)
    wide = mx.array(rng.standard_normal((7, 210)).astype(np.float32))
    for x in (wide[::2, 3:103], wide[:, ::2][:4, :100], wide.T[:100, :5].T, mx.broadcast_to(wide[:1, :100], (6, 100))):
        sign = plane(rng, "rowcol+block64", 4, 9, 100)
        part = SignOperand(*(array[1::2] for array in sign))
        slots = [i % 2 for i in range(x.shape[0])]
        check(x, part, None, slots, run(x, [part], [None], slots)[0], 64)
    columns = mx.array(rng.integers(0, 2**32, (1, 9, 8), dtype=np.uint32))[..., ::2]
    check(wide[:, :100], SignOperand(columns), None, None, run(wide[:, :100], [SignOperand(columns)], [None], None)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", ["none", "rowcol+block64"])
def test_a_row_that_is_not_finite_stays_alone(bad: float, scale: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 100)).astype(np.float32)
    x[2, 99] = x[4, 0] = bad
    sign, slots = plane(rng, scale, 2, 33, 100), [0, 1, 0, -1, 7, 0]
    y = np.array(run(mx.array(x), [sign], [mx.zeros((6, 33))], slots)[0])
    assert not np.isfinite(y[2]).any()
    assert np.isfinite(np.delete(y, 2, axis=0)).all()
    assert not y[3:5].any()


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 9, 16])
def test_rows_do_not_depend_on_each_other(m: int) -> None:
    """Bit for bit, whatever the other rows hold and wherever their slots send them."""
    rng = np.random.default_rng(m)
    sign = plane(rng, "rowcol+block32", 4, 37, 500)
    x, others = (rng.standard_normal((m, 500)).astype(np.float32) for _ in range(2))
    for i in range(m):
        results = []
        for trial in range(6):
            slots = rng.integers(-1, 5, m) if trial else np.full(m, 2)
            mixed = np.array(others * 10.0**trial, np.float32)
            mixed[i], slots[i] = x[i], 2
            results.append(np.array(run(mx.array(mixed), [sign], [None], slots.tolist())[0])[i])
        assert all(np.array_equal(results[0], other) for other in results[1:])


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    signs = [plane(rng, "row", 2, n, 544) for n in (33, 7, 130)]
    x = mx.array(rng.standard_normal((7, 544)).astype(np.float32))
    alone = [np.array(y) for y in run(x, signs, [None] * 3, [0, 1, 1, 0, 5, 0, 1])]
    for threads in ("1", "2", "3"):
        monkeypatch.setattr(cpu, "_THREADED_FROM", 0)
        monkeypatch.setattr(cpu, "_threads", lambda threads=threads: int(threads))
        cpu._pool.cache_clear()
        together = [np.array(y) for y in run(x, signs, [None] * 3, [0, 1, 1, 0, 5, 0, 1])]
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    cpu._pool.cache_clear()


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("sizes", [[1], [7], [33, 7, 130], [4, 4], [576, 192, 192]])
def test_shares_cover_every_row_once(sizes: list[int], threads: int) -> None:
    shares = cpu._shares(sizes, threads, 4)
    assert 1 <= len(shares) <= threads
    found = sorted((p, i) for share in shares for p, start, stop in share for i in range(start, stop))
    assert found == [(p, i) for p, size in enumerate(sizes) for i in range(size)]
    lengths = [sum(stop - start for _, start, stop in share) for share in shares]
    assert max(lengths) <= -(-sum(sizes) // threads) + 4 * len(sizes)


def test_threads_respect_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cpu._threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # a list, one a nesting level
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1000")
    assert 1 <= cpu._threads() <= 4


def test_two_callers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_THREADED_FROM", 0)
    rng = np.random.default_rng(0)
    sign = plane(rng, "row", 1, 257, 544)
    xs = [mx.array(rng.standard_normal((m, 544)).astype(np.float32)) for m in (1, 3, 4, 9)]
    expected = [np.array(run(x, [sign], [None], None)[0]) for x in xs]
    wrong: list[object] = []

    def call(x: mx.array, y: np.ndarray) -> None:
        try:
            with mx.stream(mx.new_stream(mx.cpu)):
                for _ in range(50):
                    if not np.array_equal(np.array(run(x, [sign], [None], None)[0]), y):
                        wrong.append(x.shape)
        except BaseException as error:
            wrong.append(error)

    callers = [threading.Thread(target=call, args=pair) for pair in zip(xs, expected, strict=True)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_threads_are_not_expected_in_a_forked_child() -> None:
    """The pool's threads do not survive a fork: a child that counted on them would wait for ever."""
    code = (
        "import os, time\n"
        "from zen_mlx.kernels import cpu\n"
        "cpu._threads = lambda: 2\n"
        "def twice():\n"
        "    done = []\n"
        "    cpu._run(lambda share: done.append(share), [64, 64], cpu._THREADED_FROM)\n"
        "    return len(done)\n"
        "assert twice() == 2\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if twice() == 2 else 1)\n"
        "end = time.monotonic() + 30\n"
        "while time.monotonic() < end:\n"
        "    done, status = os.waitpid(child, os.WNOHANG)\n"
        "    if done:\n"
        "        raise SystemExit(os.waitstatus_to_exitcode(status))\n"
        "    time.sleep(0.01)\n"
        "os.kill(child, 9)\n"
        "raise SystemExit('the child hangs')\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("transform", ["compile", "vmap"])
@pytest.mark.parametrize("traced", ["x", "y_base", "row", "packed", "slots"])
def test_tracing_raises_not_evaluable(transform: str, traced: str) -> None:
    sign = plane(np.random.default_rng(0), "row", 1, 7, 64)
    fixed = {
        "x": mx.ones((2, 64)),
        "y_base": mx.zeros((2, 7)),
        "row": sign.row,
        "packed": sign.packed,
        "slots": mx.zeros(2, dtype=mx.int32),
    }

    def product(argument: mx.array) -> mx.array:
        a = {**fixed, traced: argument}
        return cpu.select(a["x"], [SignOperand(a["packed"], a["row"])], [a["y_base"]], a["slots"])[0]

    if transform == "compile":
        with pytest.raises(cpu.NotEvaluable):
            mx.compile(product)(fixed[traced])
    else:
        with pytest.raises(cpu.NotEvaluable):
            mx.vmap(product)(mx.stack([fixed[traced], fixed[traced]]))


def test_another_value_error_is_not_swallowed() -> None:
    sign = SignOperand(mx.zeros((1, 7, 4), dtype=mx.uint32), block=mx.ones((1, 7, 3)))
    with pytest.raises(ValueError, match="no block size"):
        run(mx.ones((2, 128)), [sign], [None], None)


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_without_numba_there_is_no_kernel_and_a_reason(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from zen_mlx.kernels import cpu\n"
        "print(dict(cpu.KERNELS), cpu.NotEvaluable.__name__, cpu.UNAVAILABLE)"
    )
    assert python(code).startswith("{} NotEvaluable numba cannot be imported: ")


_ONES = (
    "import mlx.core as mx\n"
    "from zen_mlx.kernels import cpu\n"
    "from zen_mlx.kernels.operands import SignOperand\n"
    "sign = SignOperand(mx.full((1, 3, 1), 2**32 - 1, dtype=mx.uint32))\n"
    "print(cpu.select(mx.ones((1, 20)), [sign], [None], None)[0].tolist())"
)


def test_works_where_no_cache_can_be_written() -> None:
    """numba gives up when it finds no place for its cache; the kernel is then compiled for this process."""
    nowhere = "from numba.core import caching\ncaching.CacheImpl._locator_classes = []\n"
    assert python(nowhere + _ONES) == "[[20.0, 20.0, 20.0]]"


def test_a_damaged_cache_is_not_used(tmp_path: Path) -> None:
    assert python(_ONES, NUMBA_CACHE_DIR=str(tmp_path)) == "[[20.0, 20.0, 20.0]]"
    (code,) = tmp_path.rglob("*.nbc")
    code.write_bytes(code.read_bytes()[:1000])
    assert python(_ONES, NUMBA_CACHE_DIR=str(tmp_path)) == "[[20.0, 20.0, 20.0]]"


@pytest.mark.parametrize(
    ("cpu_name", "features"),
    [("haswell", "+avx,+avx2,+fma,+bmi,+bmi2,+sse4.2,+popcnt"), ("x86-64", "+sse2")],
)
def test_narrow_vectors(cpu_name: str, features: str, tmp_path: Path) -> None:
    """The code for machines without AVX-512, which x86 machines with it can run."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    if " avx2 " not in flags:
        pytest.skip("needs an x86 machine with AVX2")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import numpy as np, mlx.core as mx\n"
        "from zen_mlx.kernels import cpu_select\n"
        "assert cpu_select._LANES == 8\n"
        "import test_cpu as t\n"
        "for m in (1, 2, 3, 4, 7):\n"
        "    rng = np.random.default_rng(m)\n"
        "    sign = t.plane(rng, 'row+block32', 2, 9, 100)\n"
        "    x = mx.array(rng.standard_normal((m, 100)).astype(np.float32))\n"
        "    slots = [i % 2 for i in range(m)]\n"
        "    t.check(x, sign, None, slots, t.run(x, [sign], [None], slots)[0])\n"
        "print('ok')"
    )
    environment = {"NUMBA_CPU_NAME": cpu_name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert python(code, **environment) == "ok"
