#pragma once

inline constexpr unsigned short simt_float_to_half(float value) {
  unsigned bits = __builtin_bit_cast(unsigned, value);
  const unsigned short sign = static_cast<unsigned short>((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return 0x7fff;
  if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (bits >= 0x38800000) return static_cast<unsigned short>(sign | ((bits + 0xfff + ((bits >> 13) & 1) - 0x38000000) >> 13));
  const float shifted = __builtin_bit_cast(float, bits) + 0.5f;  // the addition rounds at 2^-24
  return static_cast<unsigned short>(sign | (__builtin_bit_cast(unsigned, shifted) - 0x3f000000));
}
inline constexpr float simt_half_to_float(unsigned short half) {
  const unsigned sign = static_cast<unsigned>(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent == 0) {
    const unsigned size = __builtin_bit_cast(unsigned, static_cast<float>(fraction) * 0x1p-24f);
    return __builtin_bit_cast(float, sign | size);
  }
  return __builtin_bit_cast(float, sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13);
}

#define SIMT_H __half
#define SIMT_H2 __half2
#define SIMT_FROM simt_float_to_half
#define SIMT_TO simt_half_to_float
#define SIMT_NAME(a, b) a##half##b
#define SIMT_NAME2(a, b) a##half2##b
#include "halves.h"
#undef SIMT_H
#undef SIMT_H2
#undef SIMT_FROM
#undef SIMT_TO
#undef SIMT_NAME
#undef SIMT_NAME2
using half = __half;
using half2 = __half2;
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half2 make_half2(__half a, __half b) { return {a, b}; }
