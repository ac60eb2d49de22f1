// Integer, bit and f32 intrinsics, and the mathematical functions that every kernel sees.
#pragma once

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  x = ((x & 0x55555555u) << 1) | ((x >> 1) & 0x55555555u);
  x = ((x & 0x33333333u) << 2) | ((x >> 2) & 0x33333333u);
  x = ((x & 0x0f0f0f0fu) << 4) | ((x >> 4) & 0x0f0f0f0fu);
  return __builtin_bswap32(x);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long bytes = (static_cast<unsigned long>(y) << 32) | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= static_cast<unsigned>((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((((static_cast<unsigned long>(high) << 32) | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<unsigned long>(high) << 32) | low) >> (shift & 31));
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>((static_cast<unsigned long>(x) * y) >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>((static_cast<long>(x) * y) >> 32); }
inline int __mul24(int x, int y) { return ((x << 8) >> 8) * ((y << 8) >> 8); }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += static_cast<signed char>(a >> (8 * i)) * static_cast<signed char>(b >> (8 * i));
  return c;
}

inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
// An intrinsic with a stated rounding is never contracted into an fma: the empty asm keeps its result apart.
inline float simt_apart(float x) {
#if defined(__x86_64__)
  __asm__("" : "+x"(x));
#else
  __asm__("" : "+w"(x));
#endif
  return x;
}
inline float __fadd_rn(float x, float y) { return simt_apart(x + y); }
inline float __fsub_rn(float x, float y) { return simt_apart(x - y); }
inline float __fmul_rn(float x, float y) { return simt_apart(x * y); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline float __expf(float x) { return __builtin_expf(x); }
inline float __logf(float x) { return __builtin_logf(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(__builtin_rintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }

#define SIMT_MATH1(name)                                      \
  extern "C" float name##f(float) noexcept;                   \
  extern "C" double name(double) noexcept;                    \
  inline float name(float x) { return __builtin_##name##f(x); }
#define SIMT_MATH2(name)                                                    \
  extern "C" float name##f(float, float) noexcept;                          \
  extern "C" double name(double, double) noexcept;                          \
  inline float name(float x, float y) { return __builtin_##name##f(x, y); }
SIMT_MATH1(exp)
SIMT_MATH1(exp2)
SIMT_MATH1(log)
SIMT_MATH1(log2)
SIMT_MATH1(sqrt)
SIMT_MATH1(fabs)
SIMT_MATH1(floor)
SIMT_MATH1(ceil)
SIMT_MATH1(round)
SIMT_MATH1(rint)
SIMT_MATH1(trunc)
SIMT_MATH1(tanh)
SIMT_MATH1(erf)
SIMT_MATH2(pow)
SIMT_MATH2(fmod)
SIMT_MATH2(fmin)
SIMT_MATH2(fmax)
SIMT_MATH2(copysign)
extern "C" float fmaf(float, float, float) noexcept;
extern "C" double fma(double, double, double) noexcept;
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
extern "C" int abs(int) noexcept;
inline float abs(float x) { return __builtin_fabsf(x); }

#define SIMT_MINMAX(A, B, R)                                                                              \
  inline constexpr R min(A x, B y) { return static_cast<R>(x) < static_cast<R>(y) ? static_cast<R>(x) : static_cast<R>(y); } \
  inline constexpr R max(A x, B y) { return static_cast<R>(x) > static_cast<R>(y) ? static_cast<R>(x) : static_cast<R>(y); }
SIMT_MINMAX(int, int, int)
SIMT_MINMAX(unsigned, unsigned, unsigned)
SIMT_MINMAX(int, unsigned, unsigned)
SIMT_MINMAX(unsigned, int, unsigned)
SIMT_MINMAX(long, long, long)
SIMT_MINMAX(unsigned long, unsigned long, unsigned long)
SIMT_MINMAX(long, unsigned long, unsigned long)
SIMT_MINMAX(unsigned long, long, unsigned long)
SIMT_MINMAX(long long, long long, long long)
SIMT_MINMAX(unsigned long long, unsigned long long, unsigned long long)
SIMT_MINMAX(double, double, double)
SIMT_MINMAX(float, double, double)
SIMT_MINMAX(double, float, double)
inline float min(float x, float y) { return __builtin_fminf(x, y); }
inline float max(float x, float y) { return __builtin_fmaxf(x, y); }

extern "C" void* memcpy(void*, const void*, size_t) noexcept;
extern "C" void* memset(void*, int, size_t) noexcept;
