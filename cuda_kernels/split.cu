// sum_p terms[p,m,k] = col[s,k] * x[m,k], s = slots[m]: x in terms that tensor cores take without rounding
//
// x [M, K] any float, col [S, K] or null -> terms [P, M, Kp], Kp >= K, zero beyond K, with [P, Kp] = sizes. f16 and bf16
// terms are for `mma.cu`, f32 terms for MLX's f32 matmul, whose TF32 units keep 11 significant bits: they hold bf16 values
// (8 bits). Three such terms are an f32 exactly, and sums of one term over many columns stay exact in an f32 accumulator,
// which matters where tensor cores truncate. A slot out of range gives a row of zeros.
// One thread an element, columns along x, rows strided along y: bound by launch overhead at the sizes it serves.

namespace zen {

template <typename X, typename T>
__device__ __forceinline__ void split(
    const X* x, const float* col, const int* slots, const int* sizes, T* terms, int M, int K, int S) {
  const int P = sizes[0], Kp = sizes[1];
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= Kp) return;
  for (int m = blockIdx.y; m < M; m += gridDim.y) {
    const int slot = slots == nullptr ? 0 : slots[m];
    float v = 0.0f;
    if (k < K && slot >= 0 && slot < S) {
      v = to_float(x[static_cast<size_t>(m) * K + k]);
      if (col != nullptr) v *= col[static_cast<size_t>(slot) * K + k];
    }
    for (int p = 0; p < P; ++p) {
      const T rounded = term<T>(v);
      terms[(static_cast<size_t>(p) * M + m) * Kp + k] = rounded;
      v -= to_float(rounded);
    }
  }
}

}  // namespace zen
