// y[m,n] = base[m,n] + row[s,n] * sum_k sign[s,n,k] * block[s,n,k//B] * (col[s,k] * x[m,k]), s = slots[m]: decode.
//
// A simdgroup makes ROWS values of one row of x: rows n0 to n0 + ROWS - 1. A lane takes every 32nd word of those rows,
// so a step reads 128 neighbouring bytes of each row, and prepares its 32 values of x once for all ROWS rows.
//     grid         x: the tiles of all projections, one after the other, each ROWS * simdgroups rows; y: M
//     threadgroup  2 simdgroups, which share nothing
// Why fast: nothing but the packed words comes from memory; ROWS loads of words are in flight at a time; x, its
// scaling and its sums are shared by ROWS rows; 1.9 instructions a weight (common.metal). Loads of more than one word
// a lane would leave lanes idle: 2560 columns are 80 words, 2.5 words a lane.

template <bool FULL, int ROWS, typename X, typename Packed, typename Col, typename Block>
void matvec_word(
    thread float* sum,
    X x,
    Packed packed,
    Col col,
    Block block,
    const thread uint* rows,
    Shape shape,
    uint word,
    uint block_shift) {
  uint words[ROWS];
  float scale[ROWS];
  ZEN_UNROLL
  for (int r = 0; r < ROWS; r++) {
    words[r] = packed[rows[r] * shape.W + word];
    scale[r] = float(block[rows[r] * shape.blocks + (word >> block_shift)]);
  }
  ZEN_UNROLL
  for (uint q = 0; q < 4; q++) {
    const Values values = load_values<FULL>(x, col, 32 * word, q, shape.K);
    ZEN_UNROLL
    for (int r = 0; r < ROWS; r++) {
      sum[r] = fma(scale[r], sign_dot(load_signs(words[r], q), values), sum[r]);
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
void matvec(
    Shape shape,
    uint tile,
    uint m,
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
  const ulong y0 = ulong(m) * shape.N + n0;
  const int slot = slots[m];
  if (slot < 0 || uint(slot) >= shape.S) {
    if (lane < ROWS && n0 + lane < shape.N) {
      y[y0 + lane] = T(float(base[y0 + lane]));
    }
    return;
  }
  const ulong first = ulong(slot) * shape.N;
  x = x + ulong(m) * shape.K;
  packed = packed + first * shape.W;
  col = col + ulong(slot) * shape.K;
  block = block + first * shape.blocks;

  // Rows past the last one repeat it: no bound inside the loop, and they are not stored.
  uint rows[ROWS];
  float sum[ROWS];
  ZEN_UNROLL
  for (int r = 0; r < ROWS; r++) {
    rows[r] = min(n0 + r, shape.N - 1);
    sum[r] = 0.0f;
  }
  const uint block_shift = shape.block_shift();
  const uint full = shape.K / 32;
  for (uint word = lane; word < full; word += 32) {
    matvec_word<true, ROWS>(sum, x, packed, col, block, rows, shape, word, block_shift);
  }
  if (full < shape.W && lane == full % 32) {
    matvec_word<false, ROWS>(sum, x, packed, col, block, rows, shape, full, block_shift);
  }

  // Every lane has every sum; lane r keeps the one of row r, so that all are stored at once.
  float mine = 0.0f;
  ZEN_UNROLL
  for (int r = 0; r < ROWS; r++) {
    const float total = simd_sum(sum[r]);
    mine = lane == uint(r) ? total : mine;
  }
  if (lane < ROWS && n0 + lane < shape.N) {
    y[y0 + lane] = T(fma(mine, float(row[first + n0 + lane]), float(base[y0 + lane])));
  }
}
