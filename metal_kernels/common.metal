// What every kernel of this folder shares: shapes, absent operands, and the dot product of one word of signs.
//
// Operands are taken as template parameters, not as `const device T*`: MLX hands an array of fewer than 8 elements over
// in `constant` memory, and an absent operand is an `Always` of the same form.
//
// One word (32 signs) against 32 values of x. With b the bit, sum (2b - 1) x = sum 2b x - sum x. An AND of the word
// with 0x4000_4000 is, read as half2, {0 or 2, 0 or 2}: two weights in one instruction, and an f32 fma takes a half
// operand as it is. Bits 13, 12 and 11 are 2^-7, 2^-11 and 2^-13 as halves (normal numbers, so no rule about
// denormals matters), which scaling x by 2^8, 2^12 and 2^14 undoes exactly. So a word costs 4 shifts, 16 ANDs, 32 fma
// and 8 adds for each row: 1.9 instructions a weight, a third of them integer ones, which M3 and later issue beside the
// others. Preparing x adds 2 to 3 a value, shared by the rows. Select-add (AND, compare-select, add) is 3 a weight,
// sign-xor (shift, AND, xor, add) 4, and an M4 Max at full bandwidth has time for about 1.9.
// The subtracted sums are over 4 values, so that a large mean of x never makes a large partial sum.

#define ZEN_UNROLL _Pragma("clang loop unroll(full)")

// An absent operand: every element is V.
template <int V>
struct Always {
  int operator[](ulong) const { return V; }
  Always operator+(ulong) const { return *this; }
};

// x [M, K], packed [S, N, W], row [S, N], col [S, K], block [S, N, blocks], base and y [M, N]
struct Shape {
  uint M, K, S, N, W, blocks;

  // A block spans 1, 2, 4 or 8 words; where two sizes fit, one block spans the row and both mean the same.
  uint block_shift() const {
    uint shift = 0;
    while (shift < 3 && ((W - 1) >> shift) + 1 != blocks) {
      shift++;
    }
    return shift;
  }
};

// Columns k to k + 3 of col * x; zero beyond K unless FULL says that all four exist.
template <bool FULL, typename X, typename Col>
float4 load4(X x, Col col, uint k, uint K) {
  float4 v = float4(0.0f);
  if (FULL || k + 3 < K) {
    v = float4(float(x[k]), float(x[k + 1]), float(x[k + 2]), float(x[k + 3]));
    return v * float4(float(col[k]), float(col[k + 1]), float(col[k + 2]), float(col[k + 3]));
  }
  if (k < K) {
    v.x = float(x[k]) * float(col[k]);
  }
  if (k + 1 < K) {
    v.y = float(x[k + 1]) * float(col[k + 1]);
  }
  if (k + 2 < K) {
    v.z = float(x[k + 2]) * float(col[k + 2]);
  }
  return v;
}

// Eight columns of a word, scaled for `sign_dot`: 4q to 4q + 3 and 16 + 4q to 16 + 4q + 3, with the two sums of four.
struct Values {
  float4 low, high;
  float low_sum, high_sum;
};

template <bool FULL, typename X, typename Col>
Values load_values(X x, Col col, uint k, uint q, uint K) {
  const float4 scale = float4(16384.0f, 4096.0f, 256.0f, 1.0f);
  const float4 low = load4<FULL>(x, col, k + 4 * q, K);
  const float4 high = load4<FULL>(x, col, k + 16 + 4 * q, K);
  Values v;
  v.low_sum = (low.x + low.y) + (low.z + low.w);
  v.high_sum = (high.x + high.y) + (high.z + high.w);
  v.low = low * scale;
  v.high = high * scale;
  return v;
}

// The eight signs of those columns: .x of pair j is column 4q + j, .y is column 16 + 4q + j; 0 for -1.
struct Signs {
  half2 pair0, pair1, pair2, pair3;
};

inline Signs load_signs(uint word, uint q) {
  const uint bits = q < 3 ? word << (11 - 4 * q) : word >> 1;
  Signs s;
  s.pair0 = as_type<half2>(bits & 0x08000800u);
  s.pair1 = as_type<half2>(bits & 0x10001000u);
  s.pair2 = as_type<half2>(bits & 0x20002000u);
  s.pair3 = as_type<half2>(bits & 0x40004000u);
  return s;
}

inline float sign_dot(Signs s, Values v) {
  float low = fma(float(s.pair0.x), v.low.x, -v.low_sum);
  float high = fma(float(s.pair0.y), v.high.x, -v.high_sum);
  low = fma(float(s.pair1.x), v.low.y, low);
  high = fma(float(s.pair1.y), v.high.y, high);
  low = fma(float(s.pair2.x), v.low.z, low);
  high = fma(float(s.pair2.y), v.high.z, high);
  low = fma(float(s.pair3.x), v.low.w, low);
  high = fma(float(s.pair3.y), v.high.w, high);
  return low + high;
}
