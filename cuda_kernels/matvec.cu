// y[m,n] = base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * (col[s,k] * x[m,k]), s = slots[m]
//
// For one row of x (any M is right: gridDim.y strides over m). packed [S, N, W], row [S, N], col [S, K],
// block [S, N, blocks]; null pointers are absent operands. A block of 128 threads makes 16 outputs: 2 groups of 8 rows,
// each cut in two along K. x (times col) is staged as f32, 8192 columns at a time, and reused by every row; a lane holds
// 32 columns in registers and adds them to 8 rows, one predicated FADD a weight:
//
//   sum sign * x = 2 * (sum_{B, bit 1} x - sum_{A, bit 0} x + c),  c = (sum_A x - sum_B x) / 2
//
// with A and B interleaved halves of every 32 columns. x with a large mean leaves c small (plain select-add,
// 2 * sum_{bit 1} x - sum x, would cancel two large sums), and c is added chunk by chunk. Seven bits of a word
// become predicates in one instruction (R2P); the eighth bits of its four bytes are gathered by a multiplication.
// Why fast: ~1.39 instructions a weight in the inner loop; every word is read once, by 8-byte loads that are in flight while
// x is staged.

namespace zen {

constexpr int MATVEC_ROWS = 8;     // of one warp
constexpr int MATVEC_GROUPS = 2;   // of rows in a block
constexpr int MATVEC_SPLITS = 2;   // of K in a block
constexpr int MATVEC_TILE = MATVEC_ROWS * MATVEC_GROUPS;
constexpr int MATVEC_STAGE = 256;  // words: 2 steps of 64 for each split
constexpr int MATVEC_PITCH = 36;   // floats a staged chunk: 32 columns, c of both chains, 2 unused; no bank conflicts

// Columns of A (taken where the bit is 0): a Thue-Morse order within each chain (even, odd columns), so that neither a
// mean nor a trend of x reaches c.
__host__ __device__ constexpr bool counts_zeros(int i) {
  return (((i >> 1) ^ (i >> 2) ^ (i >> 3) ^ (i >> 4)) & 1) != 0;
}

__device__ __forceinline__ void select_one(float& sum, bool bit, int i, float x) {
  if (counts_zeros(i)) {
    if (!bit) sum -= x;
  } else {
    if (bit) sum += x;
  }
}

// even, odd += the selected columns of one word.
__device__ __forceinline__ void select_add(float& even, float& odd, u32 word, u32 one, const float (&x)[32]) {
  // bits 7, 15, 23, 31 -> 1, 2, 3, 4
  const u32 last = __umulhi(word & 0x80808080u, (1u << 26) | (1u << 19) | (1u << 12) | (1u << 5));
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    if ((i & 7) == 7) continue;
    const u32 mask = i == 0 ? one : 1u << i;
    select_one((i & 1) ? odd : even, (word & mask) != 0, i, x[i]);
  }
#pragma unroll
  for (int i = 7; i < 32; i += 8) {
    select_one((i & 8) ? odd : even, (last & (2u << (i >> 3))) != 0, i, x[i]);
  }
}

// A chunk's place in the stage: lane l of a split reads words 2l and 2l+1, so that these lie 32 chunks apart.
__device__ __forceinline__ int staged(int chunk) {
  return ((chunk & ~63) + ((chunk & 1) << 5) + ((chunk & 63) >> 1)) * MATVEC_PITCH;
}

// 32 columns from `first` of x (times col) as f32, 0 beyond K, then c of both chains.
template <typename X>
__device__ __forceinline__ void stage_chunk(
    float* to, const X* x, const float* col, int first, int K, bool wide_x, bool wide_col) {
  float even = 0.0f, odd = 0.0f;
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    float v[8];
    const int valid = K - first - i;
    load8(x + first + i, valid, wide_x, v);
    if (col != nullptr) {
      float scale[8];
      load8(col + first + i, valid, wide_col, scale);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] *= scale[j];
    }
    reinterpret_cast<float4*>(to + i)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(to + i)[1] = make_float4(v[4], v[5], v[6], v[7]);
    float pair[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const bool is_odd = j == 7 ? (i & 8) == 0 ? false : true : (j & 1) != 0;
      pair[is_odd] += counts_zeros(i + j) ? v[j] : -v[j];
    }
    even += pair[0];
    odd += pair[1];
  }
  to[32] = 0.5f * even;
  to[33] = 0.5f * odd;
}

// words[r] = two words of row r; beyond W whatever was there, x is 0. WIDE: W is even and rows are 8-byte aligned.
template <bool WIDE>
__device__ __forceinline__ void load_words(
    uint2 (&words)[MATVEC_ROWS], const u32* const (&rows)[MATVEC_ROWS], int word, int W) {
#pragma unroll
  for (int r = 0; r < MATVEC_ROWS; ++r) {
    if (WIDE) {
      if (word < W) words[r] = __ldg(reinterpret_cast<const uint2*>(rows[r]));
    } else {
      if (word < W) words[r].x = __ldg(rows[r]);
      if (word + 1 < W) words[r].y = __ldg(rows[r] + 1);
    }
  }
}

// v[0..7] of 32 lanes -> lane 4r holds the sum of v[r]; halves the number of live values with every exchange.
__device__ __forceinline__ float sum_rows(float (&v)[MATVEC_ROWS], int lane) {
#pragma unroll
  for (int half = 4; half > 0; half >>= 1) {
    const bool upper = (lane & (half << 2)) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = upper ? v[i] : v[i + half];
      const float kept = upper ? v[i + half] : v[i];
      v[i] = kept + __shfl_xor_sync(0xFFFFFFFFu, sent, half << 2);
    }
  }
  float total = v[0] + __shfl_xor_sync(0xFFFFFFFFu, v[0], 2);
  return total + __shfl_xor_sync(0xFFFFFFFFu, total, 1);
}

// sums[r] = half the sum over this lane's columns of 8 rows. rows: their words, moved on as they are read; scales: row 0's.
template <bool BLOCK, bool WIDE, typename X>
__device__ __forceinline__ void sum_columns(
    float (&sums)[MATVEC_ROWS], float* stage, const X* x, const float* col, const u32* (&rows)[MATVEC_ROWS],
    const float* scales, int last_row, int K, int W, int blocks) {
  const int thread = threadIdx.x, lane = thread & 31, split = (thread >> 5) % MATVEC_SPLITS;
  const int shift = BLOCK ? block_shift(K, blocks) : 0;
  const u32 one = opaque_one();
  const bool wide_x = is_aligned16(x), wide_col = is_aligned16(col);
  float odds[MATVEC_ROWS];
#pragma unroll
  for (int r = 0; r < MATVEC_ROWS; ++r) sums[r] = odds[r] = 0.0f;

  int word = split * 64 + 2 * lane;
  uint2 words[MATVEC_ROWS];
#pragma unroll
  for (int r = 0; r < MATVEC_ROWS; ++r) rows[r] += word, words[r] = make_uint2(0u, 0u);
  load_words<WIDE>(words, rows, word, W);
  for (int stage_word = 0; stage_word < W; stage_word += MATVEC_STAGE) {
    const int end = min(MATVEC_STAGE, (W - stage_word + 63) & ~63);
    __syncthreads();
    for (int chunk = thread; chunk < end; chunk += 32 * MATVEC_GROUPS * MATVEC_SPLITS) {
      stage_chunk(stage + staged(chunk), x, col, (stage_word + chunk) * 32, K, wide_x, wide_col);
    }
    __syncthreads();
    const float* from = stage + (split * 64 + lane) * MATVEC_PITCH;
#pragma unroll 1
    for (int unit = split * 64; unit < end; unit += 64 * MATVEC_SPLITS) {
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        const float4* chunk = reinterpret_cast<const float4*>(from + q * 32 * MATVEC_PITCH);
        float xs[32];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float4 v = chunk[i];
          xs[4 * i] = v.x, xs[4 * i + 1] = v.y, xs[4 * i + 2] = v.z, xs[4 * i + 3] = v.w;
        }
        const float2 c = reinterpret_cast<const float2*>(chunk)[16];
#pragma unroll
        for (int r = 0; r < MATVEC_ROWS; ++r) {
          const u32 bits = q == 0 ? words[r].x : words[r].y;
          if (BLOCK) {
            float even = c.x, odd = c.y;
            select_add(even, odd, bits, one, xs);
            const float* scale = scales + (min(word + q, W - 1) >> shift);
            sums[r] = fmaf(__ldg(scale + static_cast<u32>(min(r, last_row) * blocks)), even + odd, sums[r]);
          } else {
            sums[r] += c.x;
            odds[r] += c.y;
            select_add(sums[r], odds[r], bits, one, xs);
          }
        }
      }
      from += 64 * MATVEC_SPLITS * MATVEC_PITCH;
      word += 64 * MATVEC_SPLITS;
#pragma unroll
      for (int r = 0; r < MATVEC_ROWS; ++r) rows[r] += 64 * MATVEC_SPLITS;
      load_words<WIDE>(words, rows, word, W);
    }
  }
#pragma unroll
  for (int r = 0; r < MATVEC_ROWS; ++r) sums[r] += odds[r];
}

// Outputs 16 * tile .. of one plane, for every m of this block. BLOCK: block is not null.
// Shared: stage [MATVEC_STAGE * MATVEC_PITCH], 16-byte aligned; partial [MATVEC_SPLITS * MATVEC_TILE].
template <bool BLOCK, typename X, typename B, typename Y>
__device__ __forceinline__ void matvec(
    float* stage, float* partial, const X* x, const u32* packed, const float* row, const float* col, const float* block, const int* slots,
    const B* base, Y* y, int M, int K, int N, int S, int blocks, int tile) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int group = warp / MATVEC_SPLITS, split = warp % MATVEC_SPLITS;
  const int W = (K + 31) >> 5;
  const int n_tile = tile * MATVEC_TILE;
  const int n_warp = min(n_tile + group * MATVEC_ROWS, N - 1);
  const int last_row = N - 1 - n_warp;
  for (int m = blockIdx.y; m < M; m += gridDim.y) {
    const int slot = slots == nullptr ? 0 : slots[m];
    const bool valid = slot >= 0 && slot < S;
    if (valid) {
      const X* x_row = x + static_cast<size_t>(m) * K;
      const float* col_row = col == nullptr ? nullptr : col + static_cast<size_t>(slot) * K;
      const size_t first_row = static_cast<size_t>(slot) * N + n_warp;
      const u32* rows[MATVEC_ROWS];
#pragma unroll
      for (int r = 0; r < MATVEC_ROWS; ++r) rows[r] = packed + (first_row + min(r, last_row)) * W;
      const float* scales = BLOCK ? block + first_row * blocks : nullptr;
      float sums[MATVEC_ROWS];
      if ((W & 1) == 0 && is_aligned16(packed)) {
        sum_columns<BLOCK, true>(sums, stage, x_row, col_row, rows, scales, last_row, K, W, blocks);
      } else {
        sum_columns<BLOCK, false>(sums, stage, x_row, col_row, rows, scales, last_row, K, W, blocks);
      }
      const float total = sum_rows(sums, lane);
      if ((lane & 3) == 0) partial[split * MATVEC_TILE + group * MATVEC_ROWS + (lane >> 2)] = total;
    }
    __syncthreads();
    const int n = n_tile + thread;
    if (thread < MATVEC_TILE && n < N) {
      float out = 0.0f;
      if (valid) {
        out = partial[thread];
#pragma unroll
        for (int i = 1; i < MATVEC_SPLITS; ++i) out += partial[i * MATVEC_TILE + thread];
        out *= 2.0f;
        if (row != nullptr) out *= row[static_cast<size_t>(slot) * N + n];
      }
      const size_t at = static_cast<size_t>(m) * N + n;
      if (base != nullptr) out += to_float(base[at]);
      y[at] = from_float<Y>(out);
    }
    __syncthreads();
  }
}

}  // namespace zen
