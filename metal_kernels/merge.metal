// y[s,n,k] = base[s,n,k] + row[s,n] * sign[s,n,k] * block[s,n,k//B] * col[s,k], rounded once to base's type.
//
//     base and y [S, N, K]; the other operands as in common.metal
//     grid         x: ceil(K / 8), eight columns a thread; y: S * N
//     threadgroup  32 x 8
// Why fast: the weight is read and written once, 16 bytes a thread in 16-bit types; row * block is found once for 8
// columns, which lie in one word and in one block.

template <bool FULL, typename Base, typename Col, typename T>
void merge_columns(Base base, Col col, device T* y, uint bits, float scale, uint count) {
  ZEN_UNROLL
  for (uint i = 0; i < 8; i++) {
    if (FULL || i < count) {
      y[i] = T(fma(bits & (1u << i) ? scale : -scale, float(col[i]), float(base[i])));
    }
  }
}

template <typename Base, typename Packed, typename Row, typename Col, typename Block, typename T>
void merge(Shape shape, uint eighth, uint n, Base base, Packed packed, Row row, Col col, Block block, device T* y) {
  const uint k0 = eighth * 8;
  if (k0 >= shape.K || n >= shape.S * shape.N) {
    return;
  }
  const uint word = k0 / 32;
  const uint bits = packed[ulong(n) * shape.W + word] >> (k0 % 32);
  const float scale = float(row[n]) * float(block[ulong(n) * shape.blocks + (word >> shape.block_shift())]);
  const ulong at = ulong(n) * shape.K + k0;
  const ulong col_at = ulong(n / shape.N) * shape.K + k0;
  const uint count = shape.K - k0;
  if (count >= 8) {
    merge_columns<true>(base + at, col + col_at, y + at, bits, scale, count);
  } else {
    merge_columns<false>(base + at, col + col_at, y + at, bits, scale, count);
  }
}
