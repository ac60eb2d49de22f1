// unpack: sum_q out[q,n,k] = sign[n,k] * block[n,k//B]
// merge:  out[s,n,k] = base[s,n,k] + row[s,n] * sign[s,n,k] * block[s,n,k//B] * col[s,k], in f32, rounded once
//
// packed [S, N, W], row [S, N], col [S, K], block [S, N, blocks]; null pointers are absent operands (1). unpack writes
// [terms, K] = sizes f32 terms of 8 significant bits (one is enough without block scales: +-1), exact in TF32, for the matmul of
// `zen_mlx/kernels/cuda.py`, which asks for a bounded number of rows at a time. merge reads and writes base's type.
// One thread an element, 32 neighbours share a word: stores are whole lines, and stores are what bounds it.

namespace zen {

__device__ __forceinline__ float signed_scale(
    const u32* packed, const float* block, size_t n, int k, int W, int blocks, int shift) {
  const float scale = block == nullptr ? 1.0f : block[n * blocks + (k >> (5 + shift))];
  return ((packed[n * W + (k >> 5)] >> (k & 31)) & 1u) != 0 ? scale : -scale;
}

__device__ __forceinline__ void unpack(
    const u32* packed, const float* block, const int* sizes, float* out, int N, int W, int blocks) {
  const int terms = sizes[0], K = sizes[1];
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= K) return;
  const int shift = block_shift(K, blocks);
  for (int n = blockIdx.y; n < N; n += gridDim.y) {
    float v = signed_scale(packed, block, n, k, W, blocks, shift);
    for (int q = 0; q < terms; ++q) {
      const float rounded = term<float>(v);
      out[(static_cast<size_t>(q) * N + n) * K + k] = rounded;
      v -= rounded;
    }
  }
}

template <typename T>
__device__ __forceinline__ void merge(
    const T* base, const u32* packed, const float* row, const float* col, const float* block, T* out, int S, int N, int K,
    int W, int blocks) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= K) return;
  const int shift = block_shift(K, blocks);
  for (size_t n = blockIdx.y; n < static_cast<size_t>(S) * N; n += gridDim.y) {
    float v = signed_scale(packed, block, n, k, W, blocks, shift);
    if (row != nullptr) v = __fmul_rn(v, row[n]);
    if (col != nullptr) v = __fmul_rn(v, col[n / N * K + k]);
    out[n * K + k] = from_float<T>(to_float(base[n * K + k]) + v);
  }
}

}  // namespace zen
