// y[m,n] = base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * (col[s,k] * x[m,k]), s = slots[m]: prefill.
//
// A threadgroup makes BM rows of x by 64 rows of the signs, 32 columns (one word a row) at a time: it puts col * x
// [BM, 32] and sign * block [64, 32] into threadgroup memory in f32, and its 2 x 2 simdgroups multiply 8 x 8 matrices,
// each BM/2 by 32 values; BM is 16, 32 or 64. A tile of x whose rows have several slots is gone over once for each of
// them, the other rows zero: adding a zero changes no bit of a sum.
//     grid         x: the tiles of all projections, one after the other, each 64 rows; y: ceil(M / BM)
//     threadgroup  4 simdgroups; (BM + 64) * 36 floats, at most 18 KiB, so that more than one fits a core
// Why fast: a word is read and unpacked once for BM rows of x (2 instructions a sign against BM/2 fma), and never
// written to device memory; the products are exact in f32, so col and block cost no accuracy. 36 floats a row instead
// of 32 spread the rows over the banks.

constant constexpr uint MATMUL_N = 64;
constant constexpr uint MATMUL_STRIDE = 36;
constant constexpr uint MATMUL_THREADS = 128;

// sign * block of the tile's 64 rows, one word each: half a word a thread.
template <typename Packed, typename Block>
void matmul_signs(
    threadgroup float* tile, uint thread_id, uint n0, Packed packed, Block block, Shape shape, uint word, uint block_at) {
  const uint local = thread_id / 2;
  const uint start = thread_id % 2 * 16;
  const uint n = min(n0 + local, shape.N - 1);
  const uint bits = packed[n * shape.W + word] >> start;
  const float scale = float(block[n * shape.blocks + block_at]);
  threadgroup float* out = tile + local * MATMUL_STRIDE + start;
  ZEN_UNROLL
  for (uint i = 0; i < 16; i++) {
    out[i] = bits & (1u << i) ? scale : -scale;
  }
}

// col * x of the tile's rows in this slot, 32 columns; zero for the other rows.
template <bool FULL, uint BM, typename X, typename Col>
void matmul_values(
    threadgroup float* tile,
    const threadgroup int* ids,
    uint thread_id,
    X x,
    Col col,
    Shape shape,
    int slot,
    uint word) {
  ZEN_UNROLL
  for (uint i = 0; i < BM * 8 / MATMUL_THREADS; i++) {
    const uint item = thread_id + i * MATMUL_THREADS;
    const uint local = item / 8;
    const uint start = item % 8 * 4;
    float4 v = float4(0.0f);
    if (ids[local] == slot) {
      v = load4<FULL>(x + ulong(local) * shape.K, col, 32 * word + start, shape.K);
    }
    threadgroup float* out = tile + local * MATMUL_STRIDE + start;
    out[0] = v.x;
    out[1] = v.y;
    out[2] = v.z;
    out[3] = v.w;
  }
}

template <
    uint BM,
    typename X,
    typename Slots,
    typename Packed,
    typename Row,
    typename Col,
    typename Block,
    typename Base,
    typename T>
void matmul(
    Shape shape,
    uint n_tile,
    uint m_tile,
    uint simdgroup,
    uint thread_id,
    threadgroup float* tiles,
    threadgroup int* ids,
    X x,
    Slots slots,
    Packed packed,
    Row row,
    Col col,
    Block block,
    Base base,
    device T* y) {
  constexpr uint AM = BM / 16; // 8 x 8 matrices a simdgroup, down
  constexpr uint AN = 4; // and across
  threadgroup float* x_tile = tiles;
  threadgroup float* sign_tile = tiles + BM * MATMUL_STRIDE;
  const uint m0 = m_tile * BM;
  const uint n0 = n_tile * MATMUL_N;
  const uint block_shift = shape.block_shift();
  x = x + ulong(m0) * shape.K;

  if (thread_id < BM) {
    const int slot = m0 + thread_id < shape.M ? int(slots[m0 + thread_id]) : -1;
    ids[thread_id] = slot >= 0 && uint(slot) < shape.S ? slot : -1;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  simdgroup_matrix<float, 8, 8> sums[AM][AN];
  ZEN_UNROLL
  for (uint i = 0; i < AM; i++) {
    ZEN_UNROLL
    for (uint j = 0; j < AN; j++) {
      sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }
  threadgroup float* my_x = x_tile + simdgroup / 2 * (BM / 2) * MATMUL_STRIDE;
  threadgroup float* my_signs = sign_tile + simdgroup % 2 * 32 * MATMUL_STRIDE;

  for (uint member = 0; member < BM; member++) {
    const int slot = ids[member];
    bool seen = slot < 0;
    for (uint before = 0; before < member && !seen; before++) {
      seen = ids[before] == slot;
    }
    if (seen) {
      continue;
    }
    const ulong first = ulong(slot) * shape.N;
    const Packed words = packed + first * shape.W;
    const Col cols = col + ulong(slot) * shape.K;
    const Block blocks = block + first * shape.blocks;
    for (uint word = 0; word < shape.W; word++) {
      threadgroup_barrier(mem_flags::mem_threadgroup); // the last step's tiles have been read
      matmul_signs(sign_tile, thread_id, n0, words, blocks, shape, word, word >> block_shift);
      if (32 * word + 32 <= shape.K) {
        matmul_values<true, BM>(x_tile, ids, thread_id, x, cols, shape, slot, word);
      } else {
        matmul_values<false, BM>(x_tile, ids, thread_id, x, cols, shape, slot, word);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      ZEN_UNROLL
      for (uint k = 0; k < 32; k += 8) {
        simdgroup_matrix<float, 8, 8> a[AM];
        simdgroup_matrix<float, 8, 8> b[AN];
        ZEN_UNROLL
        for (uint i = 0; i < AM; i++) {
          simdgroup_load(a[i], my_x + i * 8 * MATMUL_STRIDE + k, MATMUL_STRIDE);
        }
        ZEN_UNROLL
        for (uint j = 0; j < AN; j++) {
          simdgroup_load(b[j], my_signs + j * 8 * MATMUL_STRIDE + k, MATMUL_STRIDE, ulong2(0, 0), true);
        }
        ZEN_UNROLL
        for (uint i = 0; i < AM; i++) {
          ZEN_UNROLL
          for (uint j = 0; j < AN; j++) {
            simdgroup_multiply_accumulate(sums[i][j], a[i], b[j], sums[i][j]);
          }
        }
      }
    }
  }

  // The sums go through threadgroup memory, so that neighbouring threads store neighbouring values.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup float* mine = tiles + simdgroup / 2 * (BM / 2) * MATMUL_N + simdgroup % 2 * 32;
  ZEN_UNROLL
  for (uint i = 0; i < AM; i++) {
    ZEN_UNROLL
    for (uint j = 0; j < AN; j++) {
      simdgroup_store(sums[i][j], mine + i * 8 * MATMUL_N + j * 8, MATMUL_N);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint item = thread_id; item < BM * MATMUL_N; item += MATMUL_THREADS) {
    const uint local = item / MATMUL_N;
    const uint n = n0 + item % MATMUL_N;
    if (m0 + local >= shape.M || n >= shape.N) {
      continue;
    }
    const ulong at = ulong(m0 + local) * shape.N + n;
    const int slot = ids[local];
    float value = float(base[at]);
    if (slot >= 0) {
      value = fma(tiles[item], float(row[ulong(slot) * shape.N + n]), value);
    }
    y[at] = T(value);
  }
}
