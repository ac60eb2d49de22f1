// What every CUDA kernel here shares: conversions, guarded wide loads, block sizes, and the only PTX.
//
// The text is pasted before each kernel; MLX's own header brings cuda_fp16.h and cuda_bf16.h. No launch bounds and no
// host code: MLX writes the __global__ signature.

namespace zen {

typedef unsigned int u32;

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) { return v; }
template <>
__device__ __forceinline__ __half from_float<__half>(float v) { return __float2half_rn(v); }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

// The first of the terms that make v: rounded to T, and in f32 to the 8 bits of a bf16.
template <typename T>
__device__ __forceinline__ T term(float v) { return from_float<T>(v); }
template <>
__device__ __forceinline__ float term<float>(float v) { return to_float(from_float<__nv_bfloat16>(v)); }

// A view into a larger array may start anywhere: wide loads ask first.
__device__ __forceinline__ bool is_aligned16(const void* p) { return (reinterpret_cast<size_t>(p) & 15) == 0; }

// log2(words a block) of the block size B in {32, 64, 128, 256} with ceil(K / B) == blocks.
__device__ __forceinline__ int block_shift(int K, int blocks) {
  int shift = 0;
  while (shift < 3 && (K + (32 << shift) - 1) / (32 << shift) != blocks) ++shift;
  return shift;
}

// v[i] = p[i] for i < valid, else 0. `wide`: p is 16-byte aligned.
__device__ __forceinline__ void load8(const float* p, int valid, bool wide, float (&v)[8]) {
  if (wide && valid >= 8) {
    const float4 a = reinterpret_cast<const float4*>(p)[0];
    const float4 b = reinterpret_cast<const float4*>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = i < valid ? p[i] : 0.0f;
  }
}

// The value of a 16-bit float in the low half of `bits`.
template <typename T>
__device__ __forceinline__ float half_value(u32 bits);
template <>
__device__ __forceinline__ float half_value<__nv_bfloat16>(u32 bits) { return __uint_as_float(bits << 16); }
template <>
__device__ __forceinline__ float half_value<__half>(u32 bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xFFFFu)));
}

template <typename T>
__device__ __forceinline__ void load8(const T* p, int valid, bool wide, float (&v)[8]) {
  if (wide && valid >= 8) {
    const uint4 a = reinterpret_cast<const uint4*>(p)[0];
    const u32 pairs[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = half_value<T>(pairs[i]);
      v[2 * i + 1] = half_value<T>(pairs[i] >> 16);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = i < valid ? to_float(p[i]) : 0.0f;
  }
}

// 1, which the front end must not know: it turns `w & 1` into a form that ptxas cannot gather into R2P.
__device__ __forceinline__ u32 opaque_one() {
  u32 one;
  asm volatile("mov.u32 %0, 1;" : "=r"(one));
  return one;
}

// d += a @ b for a [16, 16] row-major, b [16, 8] column-major, d [16, 8] f32, in the fragments of mma.m16n8k16.
template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<__half>(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

}  // namespace zen

