// sum_p terms[p,m,k] = col[s,k] * x[m,k], s = slots[m]: x in terms that tensor cores take without rounding
//
// x [M, K] any float, col [S, K] or null -> terms [P, M, Kp], Kp >= K, zero beyond K. f16 and bf16 terms are for
// `mma.cu`; three bf16 terms hold an f32 exactly. f32 terms have 11 significant bits, which the TF32 units behind MLX's f32
// matmul take as they are; two of them hold an f32 to half a unit in its last place. A slot out of range gives a row of zeros.
// One thread an element, columns along x, rows strided along y: bound by launch overhead at the sizes it serves.

namespace zen {

template <typename T>
__device__ __forceinline__ T term(float v) { return from_float<T>(v); }
template <>
__device__ __forceinline__ float term<float>(float v) { return to_tf32(v); }

template <typename X, typename T>
__device__ __forceinline__ void split(
    const X* x, const float* col, const int* slots, T* terms, int P, int M, int K, int Kp, int S) {
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
