// One 16-bit float of CUDA, in software: every operation in f32, rounded once, to nearest even. A NaN becomes 0x7fff.
// SIMT_H the scalar, SIMT_H2 the pair, SIMT_FROM / SIMT_TO the conversions, SIMT_NAME(a, b): a name with the type inside.

struct SIMT_H {
  unsigned short bits;
  SIMT_H() = default;
  constexpr SIMT_H(float value) : bits(SIMT_FROM(value)) {}
  constexpr SIMT_H(double value) : bits(SIMT_FROM(static_cast<float>(value))) {}
  constexpr SIMT_H(int value) : bits(SIMT_FROM(static_cast<float>(value))) {}
  constexpr SIMT_H(unsigned value) : bits(SIMT_FROM(static_cast<float>(value))) {}
  constexpr SIMT_H(long value) : bits(SIMT_FROM(static_cast<float>(value))) {}
  constexpr SIMT_H(unsigned long value) : bits(SIMT_FROM(static_cast<float>(value))) {}
  constexpr operator float() const { return SIMT_TO(bits); }
  static constexpr SIMT_H from_bits(unsigned short bits) {
    SIMT_H value(0.0f);
    value.bits = bits;
    return value;
  }
};
struct alignas(4) SIMT_H2 {
  SIMT_H x, y;
  SIMT_H2() = default;
  constexpr SIMT_H2(SIMT_H x_, SIMT_H y_) : x(x_), y(y_) {}
};

#define SIMT_OPERATOR(op, scalar, pair)                                                                               \
  inline constexpr SIMT_H operator op(const SIMT_H& a, const SIMT_H& b) { return SIMT_H(float(a) op float(b)); }      \
  inline SIMT_H& operator op##=(SIMT_H& a, const SIMT_H& b) { return a = a op b; }                                    \
  inline SIMT_H2 operator op(const SIMT_H2& a, const SIMT_H2& b) { return {a.x op b.x, a.y op b.y}; }                 \
  inline SIMT_H2& operator op##=(SIMT_H2& a, const SIMT_H2& b) { return a = a op b; }                                 \
  inline SIMT_H scalar(SIMT_H a, SIMT_H b) { return a op b; }                                                         \
  inline SIMT_H2 pair(SIMT_H2 a, SIMT_H2 b) { return a op b; }
SIMT_OPERATOR(+, __hadd, __hadd2)
SIMT_OPERATOR(-, __hsub, __hsub2)
SIMT_OPERATOR(*, __hmul, __hmul2)
SIMT_OPERATOR(/, __hdiv, __h2div)
#undef SIMT_OPERATOR
#define SIMT_COMPARISON(op, name)                                                                            \
  inline constexpr bool operator op(const SIMT_H& a, const SIMT_H& b) { return float(a) op float(b); }       \
  inline bool name(SIMT_H a, SIMT_H b) { return a op b; }
SIMT_COMPARISON(==, __heq)
SIMT_COMPARISON(!=, __hne)
SIMT_COMPARISON(<, __hlt)
SIMT_COMPARISON(>, __hgt)
SIMT_COMPARISON(<=, __hle)
SIMT_COMPARISON(>=, __hge)
#undef SIMT_COMPARISON
inline constexpr SIMT_H operator-(const SIMT_H& a) { return SIMT_H::from_bits(a.bits ^ 0x8000); }
inline constexpr SIMT_H operator+(const SIMT_H& a) { return a; }
inline SIMT_H __hneg(SIMT_H a) { return -a; }
inline SIMT_H2 __hneg2(SIMT_H2 a) { return {-a.x, -a.y}; }
inline SIMT_H __habs(SIMT_H a) { return SIMT_H::from_bits(a.bits & 0x7fff); }
inline SIMT_H __hmax(SIMT_H a, SIMT_H b) { return SIMT_H(__builtin_fmaxf(a, b)); }
inline SIMT_H __hmin(SIMT_H a, SIMT_H b) { return SIMT_H(__builtin_fminf(a, b)); }
inline bool __hisnan(SIMT_H a) { return __builtin_isnan(float(a)); }
inline bool __hisinf(SIMT_H a) { return __builtin_isinf(float(a)); }
// The f64 result is exact but for operands 30 binary orders apart, where it errs by less than a ten-thousandth of an ulp.
inline SIMT_H __hfma(SIMT_H a, SIMT_H b, SIMT_H c) {
  const double exact = double(float(a)) * float(b) + double(float(c));
  float near = static_cast<float>(exact);  // rounded to odd, so that the second rounding is the only one
  if (double(near) != exact && near != 0 && !__builtin_isnan(exact) && !__builtin_isinf(near)) {
    unsigned bits = __builtin_bit_cast(unsigned, near);
    if ((near > exact) == (near > 0)) --bits;
    near = __builtin_bit_cast(float, bits | 1);
  }
  return SIMT_H(near);
}
inline SIMT_H2 __hfma2(SIMT_H2 a, SIMT_H2 b, SIMT_H2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline float __low2float(SIMT_H2 a) { return a.x; }
inline float __high2float(SIMT_H2 a) { return a.y; }

inline float SIMT_NAME(__, 2float)(SIMT_H a) { return a; }
inline SIMT_H SIMT_NAME(__float2, )(float a) { return SIMT_H(a); }
inline SIMT_H SIMT_NAME(__float2, _rn)(float a) { return SIMT_H(a); }
inline SIMT_H SIMT_NAME(__low2, )(SIMT_H2 a) { return a.x; }
inline SIMT_H SIMT_NAME(__high2, )(SIMT_H2 a) { return a.y; }
inline unsigned short SIMT_NAME(__, _as_ushort)(SIMT_H a) { return a.bits; }
inline short SIMT_NAME(__, _as_short)(SIMT_H a) { return static_cast<short>(a.bits); }
inline SIMT_H SIMT_NAME(__ushort_as_, )(unsigned short bits) { return SIMT_H::from_bits(bits); }
inline SIMT_H SIMT_NAME(__short_as_, )(short bits) { return SIMT_H::from_bits(static_cast<unsigned short>(bits)); }
inline SIMT_H SIMT_NAME(__int2, _rn)(int a) { return SIMT_H(a); }
inline SIMT_H2 SIMT_NAME2(__floats2, _rn)(float a, float b) { return {SIMT_H(a), SIMT_H(b)}; }
inline SIMT_H2 SIMT_NAME2(__float2, _rn)(float a) { return {SIMT_H(a), SIMT_H(a)}; }
inline SIMT_H2 SIMT_NAME2(__float22, _rn)(float2 a) { return {SIMT_H(a.x), SIMT_H(a.y)}; }
inline float2 SIMT_NAME2(__, 2float2)(SIMT_H2 a) { return {float(a.x), float(a.y)}; }
inline SIMT_H2 SIMT_NAME2(__halves2, )(SIMT_H a, SIMT_H b) { return {a, b}; }
