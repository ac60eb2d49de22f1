// y[m,n] = base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * (col[s,k] * x[m,k]), s = slots[m]: 2-12 rows of x.
//
// A simdgroup makes ROWS values (n) of 4 rows of x. It goes over the words once for each distinct slot of the 4 rows:
// a word is read and turned to halves once and serves every row of x in that slot.
//     grid         x: the tiles of all projections, one after the other, each ROWS * simdgroups rows; y: ceil(M / 4)
//     threadgroup  2 simdgroups, which share nothing
// Why fast: at several rows the product is bound by arithmetic, so what is shared counts: shifts and ANDs over 4 rows
// of x, the scaling and sums of x over ROWS rows of the signs. 1.7 instructions a weight and row (common.metal). Eight
// columns of x at a time stand in registers, beside the signs of ROWS rows and the ROWS * 4 sums. The four rows are
// read again by the next threadgroup in y from the cache: bandwidth is not what is short.

constant constexpr int WIDE_M = 4;

template <bool FULL, int ROWS, typename X, typename Packed, typename Col, typename Block>
void wide_word(
    thread float* sum,
    X x,
    Packed packed,
    Col col,
    Block block,
    const thread uint* rows,
    Shape shape,
    uint members,
    uint word,
    uint block_shift) {
  uint words[ROWS];
  float scale[ROWS];
  ZEN_UNROLL
  for (int r = 0; r < ROWS; r++) {
    words[r] = packed[rows[r] * shape.W + word];
    scale[r] = float(block[rows[r] * shape.blocks + (word >> block_shift)]);
  }
  for (uint q = 0; q < 4; q++) {
    Signs signs[ROWS];
    ZEN_UNROLL
    for (int r = 0; r < ROWS; r++) {
      signs[r] = load_signs(words[r], q);
    }
    ZEN_UNROLL
    for (int i = 0; i < WIDE_M; i++) {
      if (members & (1u << i)) {
        const Values values = load_values<FULL>(x + ulong(i) * shape.K, col, 32 * word, q, shape.K);
        ZEN_UNROLL
        for (int r = 0; r < ROWS; r++) {
          sum[i * ROWS + r] = fma(scale[r], sign_dot(signs[r], values), sum[i * ROWS + r]);
        }
      }
    }
  }
}

template <
    int ROWS,
    typename X,
    typename Slots,
    typename Packed,
    typename Row,
    typename Col,
    typename Block,
    typename Base,
    typename T>
void wide(
    Shape shape,
    uint tile,
    uint m_tile,
    uint simdgroup,
    uint lane,
    X x,
    Slots slots,
    Packed packed,
    Row row,
    Col col,
    Block block,
    Base base,
    device T* y) {
  const uint n0 = (tile * 2 + simdgroup) * ROWS;
  if (n0 >= shape.N) {
    return;
  }
  const uint m0 = m_tile * WIDE_M;
  uint rows[ROWS];
  ZEN_UNROLL
  for (int r = 0; r < ROWS; r++) {
    rows[r] = min(n0 + r, shape.N - 1);
  }
  int slot[WIDE_M];
  float sum[WIDE_M * ROWS];
  uint pending = 0;
  ZEN_UNROLL
  for (int i = 0; i < WIDE_M; i++) {
    slot[i] = m0 + i < shape.M ? int(slots[m0 + i]) : -1;
    if (slot[i] < 0 || uint(slot[i]) >= shape.S) {
      slot[i] = -1;
    } else {
      pending |= 1u << i;
    }
    ZEN_UNROLL
    for (int r = 0; r < ROWS; r++) {
      sum[i * ROWS + r] = 0.0f;
    }
  }

  const uint block_shift = shape.block_shift();
  const uint full = shape.K / 32;
  x = x + ulong(m0) * shape.K;
  while (pending != 0) {
    int current = -1;
    ZEN_UNROLL
    for (int i = 0; i < WIDE_M; i++) {
      current = pending & (1u << i) ? slot[i] : current;
    }
    uint members = 0;
    ZEN_UNROLL
    for (int i = 0; i < WIDE_M; i++) {
      members |= slot[i] == current ? 1u << i : 0u;
    }
    pending &= ~members;
    const ulong first = ulong(current) * shape.N;
    const Packed words = packed + first * shape.W;
    const Col cols = col + ulong(current) * shape.K;
    const Block blocks = block + first * shape.blocks;
    for (uint word = lane; word < full; word += 32) {
      wide_word<true, ROWS>(sum, x, words, cols, blocks, rows, shape, members, word, block_shift);
    }
    if (full < shape.W && lane == full % 32) {
      wide_word<false, ROWS>(sum, x, words, cols, blocks, rows, shape, members, full, block_shift);
    }
  }

  // Lane i * ROWS + r stores row n0 + r of row m0 + i of x.
  float mine = 0.0f;
  int mine_slot = -1;
  ZEN_UNROLL
  for (int i = 0; i < WIDE_M; i++) {
    ZEN_UNROLL
    for (int r = 0; r < ROWS; r++) {
      const float total = simd_sum(sum[i * ROWS + r]);
      mine = lane == uint(i * ROWS + r) ? total : mine;
    }
    mine_slot = lane / ROWS == uint(i) ? slot[i] : mine_slot;
  }
  const uint m = m0 + lane / ROWS;
  const uint n = n0 + lane % ROWS;
  if (lane < WIDE_M * ROWS && m < shape.M && n < shape.N) {
    const ulong at = ulong(m) * shape.N + n;
    float value = float(base[at]);
    if (mine_slot >= 0) {
      value = fma(mine, float(row[ulong(mine_slot) * shape.N + n]), value);
    }
    y[at] = T(value);
  }
}
