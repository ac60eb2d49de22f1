#pragma once

inline constexpr unsigned short simt_float_to_bfloat(float value) {
  const unsigned bits = __builtin_bit_cast(unsigned, value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline constexpr float simt_bfloat_to_float(unsigned short bits) {
  return __builtin_bit_cast(float, static_cast<unsigned>(bits) << 16);
}

#define SIMT_H __nv_bfloat16
#define SIMT_H2 __nv_bfloat162
#define SIMT_FROM simt_float_to_bfloat
#define SIMT_TO simt_bfloat_to_float
#define SIMT_NAME(a, b) a##bfloat16##b
#define SIMT_NAME2(a, b) a##bfloat162##b
#include "halves.h"
#undef SIMT_H
#undef SIMT_H2
#undef SIMT_FROM
#undef SIMT_TO
#undef SIMT_NAME
#undef SIMT_NAME2
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
