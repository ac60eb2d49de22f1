"""Planted faults: each is caught, by an error that names the kernel and, where there is one, the line."""

from __future__ import annotations

import shutil
from typing import Any

import mlx.core as mx
import pytest

if not shutil.which("g++"):
    pytest.skip("the emulator needs g++", allow_module_level=True)

from emulators.metal import CompileError, KernelError, RewriteError, metal_kernel


def run(
    source: str,
    inputs: dict[str, Any] | None = None,
    shape: tuple[int, ...] = (64,),
    dtype: mx.Dtype = mx.float32,
    grid: int = 64,
    group: int = 64,
    header: str = "",
    **options: Any,
) -> mx.array:
    inputs = inputs or {}
    kernel = metal_kernel("planted", list(inputs), ["y"], f"uint i = thread_position_in_grid.x;\n{source}", header)
    return kernel(
        inputs=list(inputs.values()), output_shapes=[shape], output_dtypes=[dtype], grid=(grid, 1, 1),
        threadgroup=(group, 1, 1), **options,
    )[0]  # fmt: skip


def caught(error: type[Exception], words: list[str], *arguments: Any, **options: Any) -> None:
    with pytest.raises(error) as raised:
        run(*arguments, **options)
    text = str(raised.value)
    assert all(word in text for word in ["planted", *words]), text


X = mx.arange(64).astype(mx.float32)
TILE = "threadgroup float tile[64];\ntile[i] = x[i];\n{} y[i] = tile[63 - i];"


def test_correct_kernel_passes() -> None:
    source = TILE.format("threadgroup_barrier(mem_flags::mem_threadgroup);")
    assert mx.array_equal(run(source, {"x": X}), X[::-1])


@pytest.mark.parametrize(
    "instead", ["", "threadgroup_barrier(mem_flags::mem_none);", "simdgroup_barrier(mem_flags::mem_threadgroup);"]
)
def test_missing_barrier_before_a_read(instead: str) -> None:
    caught(KernelError, ["'tile'", "barrier", "y[i] = tile[63 - i];"], TILE.format(instead), {"x": X})


@pytest.mark.parametrize("second", ["tile[i] = 2;", "tile[(i + 1) % 64] = 2;"])
def test_missing_barrier_before_a_write(second: str) -> None:
    barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);"
    source = TILE.format(barrier) + second
    caught(KernelError, ["data race on 'tile'", "no barrier between"], source, {"x": X})
    source = f"threadgroup float tile[64]; tile[i] = 1; {barrier} tile[0] = 3; y[i] = 0;"
    caught(KernelError, ["data race on 'tile'", "written here, written before"], source)


def test_simdgroup_barrier_orders_one_simdgroup_only() -> None:
    source = "threadgroup float tile[64]; tile[i] = x[i]; simdgroup_barrier(mem_flags::mem_threadgroup); y[i] = tile[i ^ {}];"
    assert run(source.format(1), {"x": X})[0].item() == 1
    caught(KernelError, ["'tile'"], source.format(32), {"x": X})


def test_race_on_an_output() -> None:
    caught(KernelError, ["data race on 'y'", "y[i / 2] = 1;"], "y[i / 2] = 1;", shape=(32,))
    caught(KernelError, ["data race on 'y'", "of another group"], "y[i % 32] = 1;", shape=(32,), group=32)


@pytest.mark.parametrize("index", ["i + 1", "int(i) - 1", "i * 1000000"])
def test_out_of_bounds_read(index: str) -> None:
    caught(KernelError, ["out-of-bounds read", "'x' (64 elements", "planted.metal:"], f"y[i] = x[{index}];", {"x": X})


def test_out_of_bounds_in_a_helper_names_both_lines() -> None:
    header = "template <typename X> float get(X x, uint i) {\n  return x[i + 1];\n}\n"
    caught(KernelError, ["return x[i + 1];", "y[i] = get(x, i);"], "y[i] = get(x, i);", {"x": X}, header=header)


def test_out_of_bounds_write() -> None:
    caught(
        KernelError, ["out-of-bounds write of element 63 of 'y' (63 elements", "thread 63"], "y[i] = 1;", shape=(63,)
    )
    source = "threadgroup float tile[32]; tile[i] = 1; y[i] = 1;"
    caught(KernelError, ["out-of-bounds write of element 32 of 'tile'"], source)


def test_out_of_bounds_of_a_row_is_within_the_array() -> None:
    source = "threadgroup float tile[2][8]; if (i < 16) tile[0][i] = 1; y[i] = 1;"
    run(source)  # as in C: rows lie one after another


def test_thread_array_bounds() -> None:
    caught(KernelError, ["too short for the index 8", "a[i & 15]"], "float a[8] = {0}; y[i] = a[i & 15];")


def test_division_and_shift() -> None:
    caught(KernelError, ["division"], "y[i] = 7 / int(i);")
    caught(KernelError, ["shift", "32"], "y[i] = 1u << i;")


def test_misaligned_vector() -> None:
    source = "y[i] = i < 15 ? (*(const device float4*)(x + 4 * i)).x : 0.0f;"
    assert run(source, {"x": X})[1].item() == 4
    caught(KernelError, ["misaligned read of 16 bytes"], source.replace("4 * i", "4 * i + 1"), {"x": X})
    view = mx.arange(65).astype(mx.float32)[1:]  # MLX does not copy it: its rows are contiguous
    mx.eval(view)
    caught(KernelError, ["misaligned read of 16 bytes"], source, {"x": view})


def test_divergent_simd_sum() -> None:
    caught(KernelError, ["divergence", "simd_sum", "threads 0-15"], "y[i] = i < 16 ? simd_sum(1.0f) : 0.0f;", group=32)
    caught(KernelError, ["divergence", "returned: threads 3"], "if (i == 3) return; y[i] = simd_sum(1.0f);")
    two = "float v; if (i & 1) v = simd_sum(1.0f); else v = simd_sum(2.0f); y[i] = v;"
    caught(KernelError, ["divergence", "threads 0, 2, 4"], two)
    caught(KernelError, ["divergence"], "float v = 0; for (uint k = 0; k < i % 3; ++k) v += simd_sum(1.0f); y[i] = v;")


def test_whole_simdgroups_may_part() -> None:
    y = run("y[i] = i < 32 ? simd_sum(1.0f) : simd_max(float(i));")
    assert y[0].item() == 32
    assert y[32].item() == 63


def test_divergent_barrier() -> None:
    barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);"
    caught(
        KernelError,
        ["divergence", "threadgroup_barrier", "threads 0-31", "returned: threads 32-63"],
        f"if (i < 32) {barrier} y[i] = 1;",
    )
    caught(KernelError, ["divergence", barrier], f"if (i < 32) {barrier} else {barrier} y[i] = 1;")


def test_shuffle_faults() -> None:
    caught(KernelError, ["simd_shuffle", "lane 40"], "y[i] = simd_shuffle(1.0f, 40);")
    caught(KernelError, ["simd_broadcast", "different"], "y[i] = simd_broadcast(1.0f, i & 1);")
    caught(
        KernelError,
        ["simdgroup_load", "different arguments"],
        "simdgroup_float8x8 m; simdgroup_load(m, x + i); y[i] = 0;",
        {"x": X},
    )


def test_partial_simdgroup_has_no_matrices() -> None:
    source = (
        "simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(1.0f); simdgroup_multiply(m, m, m); y[i] = 0;"
    )
    caught(KernelError, ["not all of its 32 lanes"], source, shape=(40,), grid=40)


def test_constant_where_device_is_wanted() -> None:
    header = "template <typename T> float first(const device T* x) { return x[0]; }\n"
    plain = "float first(const device float* x) { return x[0]; }\n"
    for text in (header, plain):
        run("y[i] = first(x);", {"x": mx.zeros((8,))}, header=text)
        words = ["constant and device", "fewer than 8 elements", "y[i] = first(x);"]
        caught(CompileError, words, "y[i] = first(x);", {"x": mx.zeros((7,))}, header=text)
    caught(CompileError, [], "y[i] = first(&x);", {"x": mx.array(1.0)}, header=plain)  # 0-d: a reference


def test_threadgroup_where_device_is_wanted() -> None:
    header = "float first(const device float* x) { return x[0]; }\n"
    source = "threadgroup float tile[4]; tile[i] = 1; y[i] = first(tile);"
    caught(CompileError, ["device and threadgroup"], source, grid=4, header=header)


def test_thread_where_device_is_wanted() -> None:
    header = "float first(const device float* x) { return x[0]; }\n"
    caught(CompileError, ["float a[1]"], "float a[1] = {0}; y[i] = first(a);", header=header)


def test_writing_an_input() -> None:
    caught(CompileError, ["x[i] = 1;"], "x[i] = 1; y[i] = 1;", {"x": X})


def test_too_much_threadgroup_memory() -> None:
    run("threadgroup float tile[8192]; tile[i] = 1; y[i] = 1;")
    caught(KernelError, ["32772 bytes", "32768"], "threadgroup float tile[8193]; tile[i] = 1; y[i] = 1;")
    caught(KernelError, ["32768"], "threadgroup float a[8000]; threadgroup half b[1000]; a[i] = 1; b[i] = 1; y[i] = 1;")


def test_uninitialised_threadgroup_read() -> None:
    caught(
        KernelError,
        ["'tile'", "nobody has written"],
        "threadgroup half tile[64]; if (i != 3) tile[i] = 1; y[i] = tile[i];",
    )


def test_threadgroup_memory_does_not_survive_a_group() -> None:
    source = "threadgroup float tile[32]; if (i < 32) tile[i] = 1; y[i] = tile[i % 32];"
    caught(KernelError, ["group (1, 0, 0)", "nobody has written"], source, group=32)


def test_uninitialised_thread_variable_is_far_off() -> None:
    assert abs(run("float v[4]; y[i] = v[i % 4];")[0].item()) > 1e37


def test_output_never_written() -> None:
    caught(KernelError, ["output 'y'", "element 60 was never written (4 of 64"], "if (i < 60) y[i] = 1;")
    assert run("if (i < 60) y[i] = 1;", init_value=0)[60].item() == 0
    caught(KernelError, ["'y'", "nobody has written"], "y[i] = y[i] + 1;")


def test_too_many_threads() -> None:
    with pytest.raises(ValueError, match="1024"):
        run("y[i] = 1;", group=1056, grid=2048)


@pytest.mark.parametrize(
    ("source", "header", "words"),
    [
        ("y[i] = 1;", "void f(float* p) {}\n", "explicit address space"),
        ("y[i] = 1;", "void f(const float& p) {}\n", "explicit address space"),
        ("y[i] = 1;", "template <typename T> void f(T* p) {}\n", "explicit address space"),
        ("y[i] = 1;", "void f(thread int& a, const metal::vec<float, 2>& b = c) {}\n", "explicit address space"),
        ("auto& r = i; y[i] = r;", "", "explicit address space"),
        ("y[i] = A;", "constexpr int A = 3;\n", "constant address space"),
        (
            "y[i] = B[0];",
            "template <int N> int f() { return N; }\nconst float B[2] = {1, 2};\n",
            "constant address space",
        ),
        ("y[i] = S::A;", "struct S {\n  static constexpr int A = 3;\n};\n", "constant address space"),
        ("y[i] = 1;", "struct A {};\nstruct B : A {};\n", "derived classes"),
        ("auto f = [&](float a) { return a; }; y[i] = f(1);", "", "lambda"),
        ("y[i] = 1;", "void f() {\n  threadgroup float t[4];\n}\n", "only in the kernel"),
        ("threadgroup float t[2] = {1, 2}; y[i] = 1;", "", "cannot be initialised"),
        ("double d = 1; y[i] = d;", "", "no double"),
        ("y[i] = std::max(1, 2);", "", "no namespace std"),
        ("y[i] = 1;", "#include <vector>\n", "cannot include"),
    ],
)
def test_text_that_metal_refuses(source: str, header: str, words: str) -> None:
    caught(RewriteError, [words], source, header=header)


@pytest.mark.parametrize(
    "source",
    [
        "y[i] = min(i, 3);",  # uint and int
        "y[i] = max(half(1), 1.0f);",
        "bfloat b = 1.0f; y[i] = b;",  # from a float only with a cast
        "bfloat b = half(1); y[i] = b;",
        "y[i] = as_type<uint>(half(1));",
        "y[i] = simd_sum(true);",
        "float4 v = half4(1); y[i] = v.x;",
        "y[i] = simd_sum(long(1));",
    ],
)
def test_types_that_metal_refuses(source: str) -> None:
    caught(CompileError, [source], source)


def test_bfloat_output_takes_no_float() -> None:
    caught(CompileError, ["y[i] = 1.5f;"], "y[i] = 1.5f;", dtype=mx.bfloat16)
    assert run("y[i] = bfloat(1.5f);", dtype=mx.bfloat16)[0].item() == 1.5


def test_an_undeclared_name_is_shown_with_its_line() -> None:
    caught(CompileError, ["thing", "y[i] = thing;"], "y[i] = thing;")


def test_the_process_survives_a_stopped_launch() -> None:
    for _ in range(3):
        caught(KernelError, ["out-of-bounds"], "y[i + 1] = simd_sum(1.0f);")
    assert run("y[i] = simd_sum(1.0f);")[5].item() == 32
