"""What the emulator computes is right, and every planted fault is caught, with its line."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

if str(Path(__file__).resolve().parents[2]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from emulators.cuda import RewriteError, cuda_kernel
from emulators.simt import CompileError, KernelError


def run(source, inputs=(), shape=(1,), dtype=mx.float32, threads=32, blocks=1, header="", template=None, **options):
    """One output `y` of a kernel whose inputs are `x0`, `x1`, ..."""
    init = {"init_value": options.pop("init_value")} if "init_value" in options else {}
    names = [f"x{i}" for i in range(len(inputs))]
    kernel = cuda_kernel("k", names, ["y"], source, header, **options)
    return kernel(
        inputs=list(inputs),
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=(threads * blocks, 1, 1),
        threadgroup=(threads, 1, 1),
        template=template,
        **init,
    )[0]


def caught(words, source, *arguments, error=KernelError, **options):
    """The launch is stopped with all of `words` in the message."""
    with pytest.raises(error) as info:
        run(source, *arguments, **options)
    for word in words:
        assert word in str(info.value)


SUM = """
  __shared__ float part[8];
  float s = 0;
  for (int k = threadIdx.x; k < K; k += blockDim.x) s += static_cast<float>(x0[blockIdx.x * K + k]);
  for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (int i = 0; i < blockDim.x / 32; ++i) total += part[i];
    y[blockIdx.x] = total;
  }
"""


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_reduction(dtype):
    x = mx.random.normal((5, 1000), key=mx.random.key(0)).astype(dtype)
    y = run(SUM, [x], (5,), threads=128, blocks=5, template=[("K", 1000)])
    expected = np.array(x.astype(mx.float32)).astype(np.float64).sum(-1)
    np.testing.assert_allclose(np.array(y), expected, atol=1e-4)


def test_strided_input_is_copied_and_shape_strides_ndim_arrive():
    x = mx.arange(12, dtype=mx.int32).reshape(3, 4).T
    source = "y[threadIdx.x] = x0[threadIdx.x] + 100 * x0_shape[0] + 1000 * x0_ndim + 10000 * int(x0_strides[0]);"
    y = run(source, [x], (12,), mx.int32, threads=12)
    assert np.array(y).tolist() == (np.array(x).ravel() + 32400).tolist()
    y = run(source, [x], (12,), mx.int32, threads=12, ensure_row_contiguous=False)
    assert np.array(y).tolist() == (np.arange(12) + 12400).tolist()


TRANSPOSE = """
  __shared__ T tile[32][33];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  for (int i = row; i < 32; i += 4) tile[i][lane] = x0[i * 32 + lane];
  __syncthreads();
  for (int i = row; i < 32; i += 4) y[i * 32 + lane] = tile[lane][i];
"""


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_shared_memory_transpose(dtype):
    x = mx.random.normal((32, 32)).astype(dtype)
    y = run(TRANSPOSE, [x], (32, 32), dtype, threads=128, template=[("T", dtype)])
    assert mx.array_equal(y, x.T)


MMA = """
  float d[4] = {0, 0, 0, 0};
  const int lane = threadIdx.x, row = lane / 4, pair = lane % 4;
  const unsigned* a = reinterpret_cast<const unsigned*>(x0);
  const unsigned* b = reinterpret_cast<const unsigned*>(x1);
  ACTIVE asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.TYPE.TYPE.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
               "{%8, %9}, {%0, %1, %2, %3};\\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[row * 8 + pair]), "r"(a[(row + 8) * 8 + pair]), "r"(a[row * 8 + pair + 4]),
                 "r"(a[(row + 8) * 8 + pair + 4]), "r"(b[row * 8 + pair]), "r"(b[row * 8 + pair + 4]));
  y[row * 8 + pair * 2] = d[0];
  y[row * 8 + pair * 2 + 1] = d[1];
  y[(row + 8) * 8 + pair * 2] = d[2];
  y[(row + 8) * 8 + pair * 2 + 1] = d[3];
"""


@pytest.mark.parametrize(("dtype", "name"), [(mx.float16, "f16"), (mx.bfloat16, "bf16")], ids=["f16", "bf16"])
def test_mma(dtype, name):
    a = mx.random.normal((16, 16), key=mx.random.key(1)).astype(dtype)
    b = mx.random.normal((8, 16), key=mx.random.key(2)).astype(dtype)
    y = run(MMA.replace("TYPE", name).replace("ACTIVE", ""), [a, b], (16, 8))
    a64, b64 = (np.array(v.astype(mx.float32)).astype(np.float64) for v in (a, b))
    np.testing.assert_allclose(np.array(y), a64 @ b64.T, atol=4e-6)


def test_mma_cuts_where_rounding_would_go_up():
    """1 + 1.5 * 2^-24 is 1 + 2^-23 rounded, 1 cut; below 1 the term itself is cut, to 2^-24."""
    source = MMA.replace("TYPE", "f16").replace("ACTIVE", "").replace("{0, 0, 0, 0}", "{1, 1, 1, 1}")
    for sign, expected in ((1, 1.0), (-1, 1 - 2**-24)):
        a, b = np.zeros((16, 16), np.float16), np.zeros((8, 16), np.float16)
        a[:, 0], b[:, 0] = sign * 1.5 * 2**-12, 2**-12
        assert set(run(source, [mx.array(a), mx.array(b)], (16, 8)).reshape(-1).tolist()) == {expected}


def test_mma_with_inactive_lanes():
    a = mx.zeros((16, 16), dtype=mx.float16)
    source = MMA.replace("TYPE", "f16").replace("ACTIVE", "if (lane < 31)")
    caught(["divergence", "mma", "threads 0-30", "returned: threads 31"], source, [a, a], (16, 8))
    caught(["mma", "fewer than 32"], MMA.replace("TYPE", "f16").replace("ACTIVE", ""), [a, a], (16, 8), threads=16)


def test_ldmatrix_and_cp_async():
    source = """
      __shared__ __align__(16) __half tile[32][24];
      const int lane = threadIdx.x;
      const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&tile[lane][0]));
      for (int i = 0; i < 2; ++i)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;"
                     :: "r"(to + i * 16), "l"(x0 + lane * 16 + i * 8) : "memory");
      asm volatile("cp.async.commit_group;");
      WAIT
      __syncwarp();
      const unsigned row = static_cast<unsigned>(__cvta_generic_to_shared(&tile[lane][8]));
      unsigned r[4];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row));
      for (int i = 0; i < 4; ++i) reinterpret_cast<unsigned*>(y)[(i * 8 + lane / 4) * 4 + lane % 4] = r[i];
    """
    x = mx.random.normal((32, 16)).astype(mx.float16)
    y = run(source.replace("WAIT", 'asm volatile("cp.async.wait_group 0;" ::: "memory");'), [x], (32, 8), mx.float16)
    assert mx.array_equal(y, x[:, 8:])
    caught(["written", "ldmatrix"], source.replace("WAIT", ""), [x], (32, 8), mx.float16)


def test_integer_intrinsics_and_ptx_agree():
    source = """
      const unsigned a = x0[threadIdx.x], b = x1[threadIdx.x];
      unsigned lop, prmt, shf;
      asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(lop) : "r"(a), "r"(b), "r"(~a));
      asm("prmt.b32 %0, %1, %2, 0x6420;" : "=r"(prmt) : "r"(a), "r"(b));
      asm("{ .reg .pred p; setp.lt.u32 p, %1, %2; mov.u32 %0, 7; @p shf.l.wrap.b32 %0, %1, %2, 5; }"
          : "=r"(shf) : "r"(a), "r"(b));
      if (lop != ((a & b) | ~a)) __trap();
      if (prmt != __byte_perm(a, b, 0x6420)) __trap();
      if (shf != (a < b ? __funnelshift_l(a, b, 5) : 7u)) __trap();
      if (__brev(__brev(a)) != a || __popc(a) + __popc(~a) != 32) __trap();
      y[threadIdx.x] = __ballot_sync(0xffffffffu, a & 1) ^ __reduce_add_sync(0xffffffffu, a);
    """
    a, b = (mx.random.randint(0, 2**31 - 1, (32,), key=mx.random.key(i)).astype(mx.uint32) for i in (3, 4))
    y = run(source, [a, b], (32,), mx.uint32)
    ballot = sum(int(v & 1) << i for i, v in enumerate(np.array(a)))
    assert set(np.array(y).tolist()) == {ballot ^ (int(np.array(a).astype(np.uint64).sum()) & 0xFFFFFFFF)}


@pytest.mark.parametrize(("dtype", "type_"), [(mx.float16, "half"), (mx.bfloat16, "bfloat16")], ids=["f16", "bf16"])
def test_16_bit_floats_round_as_mlx_does(dtype, type_):
    edges = [
        0.0,
        -0.0,
        1.0,
        65504.0,
        65519.99,
        65520.0,
        6e-8,
        2.9e-8,
        1e-40,
        3e38,
        float("inf"),
        1.00048828125,
        1.0014648,
    ]
    x = mx.concatenate([mx.array(edges), mx.random.normal((243,), key=mx.random.key(5))])
    y = run(f"y[threadIdx.x] = __float2{type_}(x0[threadIdx.x]);", [x], (256,), dtype, threads=256)
    assert mx.array_equal(y.view(mx.uint16), x.astype(dtype).view(mx.uint16))
    a, b = x.astype(dtype), mx.random.normal((256,)).astype(dtype)
    y = run("y[threadIdx.x] = x0[threadIdx.x] * x1[threadIdx.x] + x1[threadIdx.x];", [a, b], (256,), dtype, threads=256)
    assert mx.array_equal(y, a * b + b)


def test_whole_blocks_run_and_small_grids_make_small_blocks():
    kernel = cuda_kernel("k", [], ["y"], "if (threadIdx.x == 0) y[blockIdx.x] = gridDim.x * 1000 + blockDim.x;")
    call = {"inputs": [], "output_dtypes": [mx.int32], "threadgroup": (64, 1, 1)}
    assert kernel(output_shapes=[(3,)], grid=(130, 1, 1), **call)[0].tolist() == [3064] * 3
    assert kernel(output_shapes=[(1,)], grid=(40, 1, 1), **call)[0].tolist() == [1040]


def test_missing_barrier():
    source = TRANSPOSE.replace("__syncthreads();", "")
    caught(["'tile'"], source, [mx.zeros((32, 32))], (32, 32), threads=128, template=[("T", mx.float32)])
    source = """
      __shared__ float a[64];
      a[threadIdx.x] = 1;
      __syncthreads();
      const float v = a[threadIdx.x ^ 32];
      SYNC
      a[threadIdx.x] = v + 1;
      y[threadIdx.x] = a[threadIdx.x];
    """
    run(source.replace("SYNC", "__syncthreads();"), shape=(64,), threads=64)
    caught(["race", "'a'", "a[threadIdx.x] = v + 1"], source.replace("SYNC", "__syncwarp();"), shape=(64,), threads=64)
    source = "__shared__ float a[64]; a[threadIdx.x] = 1; SYNC y[threadIdx.x] = a[threadIdx.x ^ N];"
    for sync, n, good in (
        ("__syncwarp();", 1, True),
        ("__syncwarp();", 32, False),
        ("__syncthreads();", 32, True),
        ("", 1, False),
    ):
        options = {"shape": (64,), "threads": 64, "template": [("N", n)]}
        if good:
            run(source.replace("SYNC", sync), **options)
        else:
            caught(["'a'", "a[threadIdx.x ^ N]"], source.replace("SYNC", sync), **options)


def test_uninitialised_shared_memory():
    caught(
        ["read of byte 4 of 'a'", "written"],
        "__shared__ int a[4]; a[0] = 1; __syncthreads(); y[0] = a[1];",
        threads=1,
    )


@pytest.mark.parametrize("read", ["x0[i]", "__ldg(x0 + i)", "reinterpret_cast<const float2*>(x0)[i / 2].x"])
def test_out_of_bounds_read(read):
    source = f"const int i = threadIdx.x + N; y[threadIdx.x] = {read};"
    run(source, [mx.zeros(40)], (32,), template=[("N", 8)])
    caught(["out-of-bounds read", "'x0'", "has 160"], source, [mx.zeros(40)], (32,), template=[("N", 9)])
    caught(["out-of-bounds read", "byte -8 of 'x0'"], source.replace("N", "-2"), [mx.zeros(40)], (32,))


def test_other_bad_accesses():
    caught(["out-of-bounds write", "'y'"], "y[threadIdx.x] = 0;", shape=(31,))
    caught(["write to the input 'x0'"], "const_cast<float*>(x0)[0] = 1; y[0] = 0;", [mx.zeros(9)], threads=1)
    caught(
        ["misaligned"],
        "y[0] = reinterpret_cast<const float4*>(x0 + N)->x;",
        [mx.zeros(9)],
        threads=1,
        template=[("N", 1)],
    )
    caught(["misaligned"], "y[0] = reinterpret_cast<const float4*>(x0)->x;", [mx.zeros(9)[1:]], threads=1)
    caught(["null pointer"], "y[0] = x0[0];", [mx.zeros(0)], threads=1)
    caught(
        ["out-of-bounds", "'a'"],
        "__shared__ float a[8], b[8]; float* p = a; b[0] = p[8 + N] = 1; y[0] = b[0];",
        threads=1,
        template=[("N", 0)],
    )
    caught(["'y'", "does not write"], "y[0] = 1; y[0] = __ldg(y);", threads=1)
    caught(["'a' outside of a function"], "y[0] = a[0];", header="__shared__ float a[4];")
    caught(["shift"], "y[threadIdx.x] = 1u << (threadIdx.x + 1);", shape=(32,), dtype=mx.uint32)
    caught(["more than the limit"], "__shared__ float a[12289]; a[0] = 1; y[0] = a[0];", threads=1)
    caught(["shared_memory=0"], "extern __shared__ float a[]; a[0] = 1; y[0] = a[0];", threads=1)


def test_dynamic_shared_memory():
    source = "extern __shared__ float a[]; a[threadIdx.x] = threadIdx.x; __syncthreads(); y[threadIdx.x] = a[31 - threadIdx.x];"
    assert run(source, shape=(32,), shared_memory=128).tolist() == list(range(31, -1, -1))
    caught(["out-of-bounds write", "which has 124"], source, shape=(32,), shared_memory=124)


def test_outputs_written_once_and_whole():
    caught(
        ["1 of 32 elements of the output 'y'", "first is 5"], "if (threadIdx.x != 5) y[threadIdx.x] = 1;", shape=(32,)
    )
    run("if (threadIdx.x != 5) y[threadIdx.x] = 1;", shape=(32,), init_value=0)
    caught(["race", "'y'"], "y[threadIdx.x / 2] = 1;", shape=(16,))
    caught(["race", "another group"], "y[threadIdx.x] = 1;", shape=(32,), blocks=2)


def test_divergence():
    shuffle = "float v = 1; if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffffu, v, 1); y[threadIdx.x] = v;"
    caught(
        ["divergence", "__shfl_xor_sync", "threads 0-15", "__shfl_xor_sync(0xffffffffu, v, 1)"], shuffle, shape=(32,)
    )
    branches = "v = threadIdx.x < 16 ? __shfl_sync(~0u, v, 0) : __shfl_sync(~0u, v, 1); y[threadIdx.x] = v;"
    branches = f"float v = 1; {branches}"
    caught(["divergence", "threads 0-15", "threads 16-31"], branches, shape=(32,))
    barrier = (
        "if (threadIdx.x < 16) __syncthreads(); else __syncwarp(0xffff0000u); y[threadIdx.x] = 1; __syncthreads();"
    )
    caught(["divergence", "__syncthreads"], barrier, shape=(32,))
    run("if (threadIdx.x >= 32) return; __syncthreads(); y[threadIdx.x] = 1;", shape=(32,), threads=64)


def test_masks():
    source = "float v = threadIdx.x; if (threadIdx.x < 8) { v = __shfl_xor_sync(MASK, v, N); } y[threadIdx.x] = v;"
    y = run(source.replace("MASK", "0xffu"), shape=(32,), template=[("N", 4)])
    assert y.tolist() == [i ^ 4 for i in range(8)] + list(range(8, 32))
    caught(["lane 8", "not in the mask"], source.replace("MASK", "0xffu"), shape=(32,), template=[("N", 8)])
    caught(["mask 0000007f", "this lane is not"], source.replace("MASK", "0x7fu"), shape=(32,), template=[("N", 0)])
    caught(["divergence"], source.replace("MASK", "0x1ffu"), shape=(32,), template=[("N", 1)])
    caught(["divergence"], "y[threadIdx.x] = __shfl_sync(~0u, 1.0f, 0);", shape=(20,), threads=20)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ('asm("foo.b32 %0, 1;" : "=r"(i));', ["does not know the instruction foo.b32"]),
        ('asm("mov.u32 %1, 1;" : "=r"(i));', ["operand %1 of 1"]),
        ('asm("mov.u32 %0, 1" : "=r"(i));', ["no semicolon"]),
        ('asm("mov.u32 %0, 1;" : "r"(i));', ["cannot stand there"]),
        ("extern __shared__ float a[4];", ["unknown size"]),
    ],
)
def test_text_that_nvcc_would_not_take(statement, words):
    caught([*words, "line "], f"unsigned i = 0; {statement} y[0] = i;", error=RewriteError)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ('float f; asm("mov.u32 %0, 1;" : "=r"(f));', "constraint r"),
        ('unsigned i; asm("add.u32 %0, %1, 1;" : "=r"(i) : "f"(1.0f));', "deleted"),
        ('unsigned i; asm("add.u32 %0, %0;" : "+r"(i));', "too few"),
        ("y[0] = std::max(1, 2);", "std"),
        ("float4 v = __shfl_sync(~0u, make_float4(1, 2, 3, 4), 0);", "takes no value of this type"),
    ],
)
def test_text_that_does_not_compile(statement, words):
    caught([words], statement, error=CompileError)


def test_calls_that_mlx_refuses_or_gets_wrong():
    with pytest.raises(ValueError, match="0-d"):
        run("y[0] = x0_ndim;", [mx.array(1.0)])
    with pytest.raises(ValueError, match="`inputs` to have size 0"):
        cuda_kernel("k", [], ["y"], "")(
            inputs=[1], output_shapes=[(1,)], output_dtypes=[mx.float32], grid=(1, 1, 1), threadgroup=(1, 1, 1)
        )
    with pytest.raises(ValueError, match="negative"):
        run("y[0] = N;", template=[("N", -1)])
    with pytest.raises(ValueError, match="more than 1024"):
        run("y[0] = 1;", threads=1025)
