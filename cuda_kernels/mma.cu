// y[m,n] = base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * x[m,k], s = slots[m], on tensor cores
//
// For 2 to 64 rows (any M is right). x [P, M, 32 W] f16 or bf16: P terms whose sum is x (times col), zero beyond K, as
// `split.cu` makes them (16-bit x without col is its own single term). packed [S, N, W], row [S, N],
// block [S, N, blocks]; null pointers are absent operands. A block of 256 threads makes 32 outputs of NT * 8 rows; its
// 8 warps share K, 16 words at a time, and add up through shared memory.
//
// m16n8k16 with the signs as A: +-1 is exact, so that only x decides the precision. Any order of k will do as long as
// A and B agree, so a lane's A registers come from words it holds itself: register j is bits j and j + 16 moved to the
// sign bits of two halves, a shift and a LOP3. With block scales four lanes share a word (a sum must not leave its
// block), each taking 4 + 4 of its bits. Tensor cores truncate what an f32 accumulator cannot hold: a sum of 128
// columns of one 16-bit term fits, then it goes into an f32 sum (every word with block scales). Terms of different size
// have accumulators of their own, for two k-steps.
// Rows of one tile with different slots: one pass over K for each distinct slot, which skips tiles of 8 without it.
// Why fast: ~1.6 instructions a weight for up to 8 rows (matvec, staging included: ~1.65), no copy of x or of the signs in
// shared memory.

namespace zen {

constexpr int MMA_WARPS = 8;
constexpr int MMA_N = 32;      // outputs a block: two A tiles
constexpr int MMA_PITCH = 33;  // of a row in the shared sums

// Both halves -1; a set sign bit of the xor makes +1.
template <typename X>
__device__ __forceinline__ u32 minus_ones();
template <>
__device__ __forceinline__ u32 minus_ones<__nv_bfloat16>() { return 0xBF80BF80u; }
template <>
__device__ __forceinline__ u32 minus_ones<__half>() { return 0xBC00BC00u; }

// Four words from `word`, 0 beyond W.
__device__ __forceinline__ void load_words4(u32 (&to)[4], const u32* row, int word, int W, bool wide) {
  if (wide) {
    uint4 v = make_uint4(0u, 0u, 0u, 0u);
    if (word < W) v = __ldg(reinterpret_cast<const uint4*>(row + word));
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = word + i < W ? __ldg(row + word + i) : 0u;
  }
}

// Four 16-bit values.
template <bool WIDE, typename X>
__device__ __forceinline__ uint2 load_halves4(const X* from) {
  if (WIDE) return __ldg(reinterpret_cast<const uint2*>(from));
  const unsigned short* p = reinterpret_cast<const unsigned short*>(from);
  return make_uint2(p[0] | static_cast<u32>(p[1]) << 16, p[2] | static_cast<u32>(p[3]) << 16);
}

// B registers of two k-steps: value i of columns [0, 4) and of columns [16, 20) of `from`.
template <bool WIDE, typename X>
__device__ __forceinline__ void load_b(u32 (&b)[4], const X* from, bool inside) {
  uint2 low = make_uint2(0u, 0u), high = make_uint2(0u, 0u);
  if (inside) {
    low = load_halves4<WIDE>(from);
    high = load_halves4<WIDE>(from + 16);
  }
  b[0] = __byte_perm(low.x, high.x, 0x5410);
  b[1] = __byte_perm(low.x, high.x, 0x7632);
  b[2] = __byte_perm(low.y, high.y, 0x5410);
  b[3] = __byte_perm(low.y, high.y, 0x7632);
}

template <int NT>
__device__ __forceinline__ void clear(float (&to)[2][NT][4]) {
#pragma unroll
  for (int i = 0; i < 8 * NT; ++i) to[i / (4 * NT)][i / 4 % NT][i % 4] = 0.0f;
}

template <int NT>
__device__ __forceinline__ void add(float (&to)[2][NT][4], const float (&from)[2][NT][4]) {
#pragma unroll
  for (int i = 0; i < 8 * NT; ++i) to[i / (4 * NT)][i / 4 % NT][i % 4] += from[i / (4 * NT)][i / 4 % NT][i % 4];
}

// total += one warp's share of the sum over K, for the rows of one slot. TERMS: P > 1. WIDE: x is 8-byte aligned.
// signs, scales: the slot's; same: bit i set where row m_tile + i has that slot.
template <int NT, bool BLOCK, bool TERMS, bool WIDE, typename X>
__device__ __forceinline__ void sum_columns(
    float (&total)[2][NT][4], const X* x, const u32* signs, const float* scales, const int (&n_row)[4], u32 same,
    int m_tile, int P, int M, int W, int blocks, bool wide_words) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int g = lane >> 2, t = lane & 3;
  const int Kp = 32 * W;
  const int shift = BLOCK ? block_shift(Kp, blocks) : 0;
  // W >> 31 is 0; without it ptxas loads the constant anew before every other LOP3.
  const u32 sign_bits = 0x80008000u | static_cast<u32>(W) >> 31;
  const size_t term_stride = static_cast<size_t>(M) * Kp;
  const X* x_row[NT];  // rows beyond M are read as the last one and never stored
#pragma unroll
  for (int c = 0; c < NT; ++c) {
    x_row[c] = x + static_cast<size_t>(min(m_tile + 8 * c + g, M - 1)) * Kp + 512 * warp +
               (BLOCK ? 4 * t : 128 * t);
  }

  for (int group = 16 * warp; group < W; group += 16 * MMA_WARPS) {
    u32 words[4][4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      load_words4(words[r], signs + static_cast<size_t>(n_row[r]) * W, group + 4 * t, W, wide_words);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (BLOCK && group + 4 * i >= W) break;
      float acc[2][NT][4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        // Registers j = 4q .. 4q + 3 of the four A rows: two k-steps.
        u32 a[4][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          u32 bits = words[r][i] << (12 - 4 * q);
          if (BLOCK) bits = __shfl_sync(0xFFFFFFFFu, words[r][q], (lane & ~3) | i) << (12 - 4 * t);
#pragma unroll
          for (int e = 0; e < 4; ++e) a[r][e] = ((bits << (3 - e)) & sign_bits) ^ minus_ones<X>();
        }
        const int word = BLOCK ? group + 4 * i + q : group + 4 * t + i;
        const int column = BLOCK ? 32 * (4 * i + q) : 32 * i + 4 * q;
        if (!TERMS && (BLOCK || q == 0)) clear(acc);
        float sum[2][NT][4];  // of the terms, the smallest first
        if (TERMS) clear(sum);
        for (int p = TERMS ? P - 1 : 0; p >= 0; --p) {
          if (TERMS) clear(acc);
#pragma unroll
          for (int c = 0; c < NT; ++c) {
            if (NT > 1 && ((same >> (8 * c)) & 0xFFu) == 0) continue;
            const X* from = x_row[c] + column;
            u32 b[4];
            load_b<WIDE>(b, TERMS ? from + p * term_stride : from, word < W);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              mma<X>(acc[h][c], a[2 * h][0], a[2 * h + 1][0], a[2 * h][1], a[2 * h + 1][1], b[0], b[1]);
              mma<X>(acc[h][c], a[2 * h][2], a[2 * h + 1][2], a[2 * h][3], a[2 * h + 1][3], b[2], b[3]);
            }
          }
          if (TERMS) add(sum, acc);
        }
        if (BLOCK) {
          float scale[4];
          const int at = min(word, W - 1) >> shift;
#pragma unroll
          for (int r = 0; r < 4; ++r) scale[r] = __ldg(scales + static_cast<size_t>(n_row[r]) * blocks + at);
#pragma unroll
          for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int c = 0; c < NT; ++c)
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                const float v = TERMS ? sum[h][c][e] : acc[h][c][e];
                total[h][c][e] = fmaf(scale[2 * h + (e >> 1)], v, total[h][c][e]);
              }
        } else if (TERMS) {
          add(total, sum);
        } else if (q == 3) {
          add(total, acc);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < NT; ++c) x_row[c] += 512 * MMA_WARPS;
  }
}

// Outputs 32 * tile .. of one plane for rows 8 * NT * blockIdx.y ..; sums: [MMA_WARPS * NT * 8 * MMA_PITCH] shared.
template <int NT, bool BLOCK, bool TERMS, typename X, typename B, typename Y>
__device__ __forceinline__ void mma_rows(
    float* sums, const X* x, const u32* packed, const float* row, const float* block, const int* slots, const B* base,
    Y* y, int P, int M, int N, int W, int S, int blocks, int tile) {
  constexpr int ROWS = 8 * NT;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int g = lane >> 2, t = lane & 3;
  const int m_tile = blockIdx.y * ROWS, n_tile = tile * MMA_N;
  const bool wide_words = (W & 3) == 0 && is_aligned16(packed), wide_x = is_aligned16(x);

  int mine = -1;  // the slot of row m_tile + lane
  if (lane < ROWS && m_tile + lane < M) mine = slots == nullptr ? 0 : slots[m_tile + lane];
  if (mine >= S) mine = -1;

  int n_row[4];  // A rows g, g + 8, g + 16, g + 24, held inside N
#pragma unroll
  for (int r = 0; r < 4; ++r) n_row[r] = min(n_tile + 8 * r + g, N - 1);

  for (int lead = 0; lead < ROWS; ++lead) {
    const int slot = __shfl_sync(0xFFFFFFFFu, mine, lead);
    const u32 same = __ballot_sync(0xFFFFFFFFu, mine == slot);
    if (slot < 0 || (same & ((1u << lead) - 1u)) != 0) continue;

    float total[2][NT][4];
    clear(total);
    const u32* signs = packed + static_cast<size_t>(slot) * N * W;
    const float* scales = BLOCK ? block + static_cast<size_t>(slot) * N * blocks : nullptr;

    if (wide_x) {
      sum_columns<NT, BLOCK, TERMS, true>(total, x, signs, scales, n_row, same, m_tile, P, M, W, blocks, wide_words);
    } else {
      sum_columns<NT, BLOCK, TERMS, false>(total, x, signs, scales, n_row, same, m_tile, P, M, W, blocks, wide_words);
    }

    // total[h][c] is rows 16h + g, 16h + 8 + g by columns (rows of x) 8c + 2t, 8c + 2t + 1.
    float* own = sums + warp * ROWS * MMA_PITCH;
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int c = 0; c < NT; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          own[(8 * c + 2 * t + (e & 1)) * MMA_PITCH + 16 * h + 8 * (e >> 1) + g] = total[h][c][e];
        }
    __syncthreads();
    const int n = n_tile + lane;
    for (int i = warp; i < ROWS; i += MMA_WARPS) {
      const int m = m_tile + i;
      if (n >= N || ((same >> i) & 1u) == 0) continue;
      float out = 0.0f;
#pragma unroll
      for (int w = 0; w < MMA_WARPS; ++w) out += sums[(w * ROWS + i) * MMA_PITCH + lane];
      if (row != nullptr) out *= row[static_cast<size_t>(slot) * N + n];
      const size_t at = static_cast<size_t>(m) * N + n;
      if (base != nullptr) out += to_float(base[at]);
      y[at] = from_float<Y>(out);
    }
    __syncthreads();
  }

  if (slots == nullptr) return;
  const int n = n_tile + lane;
  for (int i = warp; i < ROWS; i += MMA_WARPS) {
    const int m = m_tile + i;
    if (n >= N || m >= M || (slots[m] >= 0 && slots[m] < S)) continue;
    const size_t at = static_cast<size_t>(m) * N + n;
    y[at] = from_float<Y>(base == nullptr ? 0.0f : to_float(base[at]));
  }
}

}  // namespace zen
