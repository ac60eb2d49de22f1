// half and bfloat in software: each operation is done in float and rounded once, to nearest even; subnormals are kept.
#pragma once
#include <cstdint>
#include <type_traits>

namespace simt {

constexpr std::uint32_t float_bits(float value) { return __builtin_bit_cast(std::uint32_t, value); }
constexpr float bits_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

constexpr std::uint16_t float_to_half_bits(float value) {
  std::uint32_t bits = float_bits(value);
  const std::uint16_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00 | ((bits >> 13) & 0x1ff);
  if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (bits >= 0x38800000) return sign | ((bits + 0xfff + ((bits >> 13) & 1) - 0x38000000) >> 13);
  return sign | (float_bits(bits_float(bits) + 0.5f) - float_bits(0.5f));  // the addition rounds at 2^-24
}

constexpr float half_bits_to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent == 0) return bits_float(sign | float_bits(float(fraction) * 0x1p-24f));
  if (exponent == 31) return bits_float(sign | 0x7f800000 | fraction << 13);
  return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

constexpr std::uint16_t float_to_bfloat_bits(float value) {
  const std::uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

constexpr float bfloat_bits_to_float(std::uint16_t bits) { return bits_float(std::uint32_t(bits) << 16); }

struct half_format {
  static constexpr std::uint16_t encode(float value) { return float_to_half_bits(value); }
  static constexpr float decode(std::uint16_t bits) { return half_bits_to_float(bits); }
};
struct bfloat_format {
  static constexpr std::uint16_t encode(float value) { return float_to_bfloat_bits(value); }
  static constexpr float decode(std::uint16_t bits) { return bfloat_bits_to_float(bits); }
};

// `implicit`: whether a float becomes one without a cast.
template <class Format, bool implicit>
struct small_float {
  std::uint16_t bits;
  using self = small_float;
  template <class U>
  using number = std::enable_if_t<std::is_arithmetic_v<U>, int>;
  // with a floating-point operand the operation is done in that type, with an integer in this one
  template <class U>
  using mixed = std::conditional_t<std::is_floating_point_v<U>, U, self>;

  small_float() = default;
  template <class U, number<U> = 0, bool allowed = implicit, std::enable_if_t<allowed, int> = 0>
  constexpr small_float(U value) : bits(Format::encode(float(value))) {}
  template <class U, number<U> = 0, bool allowed = implicit, std::enable_if_t<!allowed, int> = 0>
  constexpr explicit small_float(U value, int = 0) : bits(Format::encode(float(value))) {}
  template <class F, bool i, std::enable_if_t<!std::is_same_v<F, Format>, int> = 0>
  constexpr explicit small_float(small_float<F, i> value) : bits(Format::encode(float(value))) {}
  static constexpr self from_bits(std::uint16_t bits) {
    self value{};
    value.bits = bits;
    return value;
  }
  // to float alone without a cast: `c ? small : 0` must not become an int
  template <class U, std::enable_if_t<std::is_same_v<U, float>, int> = 0>
  constexpr operator U() const {
    return Format::decode(bits);
  }
  template <class U, std::enable_if_t<std::is_arithmetic_v<U> && !std::is_same_v<U, float>, int> = 0>
  constexpr explicit operator U() const {
    return U(Format::decode(bits));
  }

#define SIMT_OPERATOR(op)                                                                             \
  friend constexpr self operator op(self a, self b) { return self(float(a) op float(b)); }            \
  template <class U, number<U> = 0>                                                                   \
  friend constexpr mixed<U> operator op(self a, U b) {                                                \
    return mixed<U>(std::conditional_t<std::is_same_v<U, double>, double, float>(float(a)) op         \
                    std::conditional_t<std::is_same_v<U, double>, double, float>(b));                 \
  }                                                                                                   \
  template <class U, number<U> = 0>                                                                   \
  friend constexpr mixed<U> operator op(U a, self b) {                                                \
    return mixed<U>(std::conditional_t<std::is_same_v<U, double>, double, float>(a) op                \
                    std::conditional_t<std::is_same_v<U, double>, double, float>(float(b)));          \
  }                                                                                                   \
  template <class U>                                                                                  \
  constexpr self& operator op##=(U b) {                                                               \
    return *this = self(float(*this) op float(b));                                                    \
  }
  SIMT_OPERATOR(+)
  SIMT_OPERATOR(-)
  SIMT_OPERATOR(*)
  SIMT_OPERATOR(/)
#undef SIMT_OPERATOR
#define SIMT_COMPARISON(op)                                                                           \
  friend constexpr bool operator op(self a, self b) { return float(a) op float(b); }                  \
  template <class U, number<U> = 0>                                                                   \
  friend constexpr bool operator op(self a, U b) { return float(a) op b; }                            \
  template <class U, number<U> = 0>                                                                   \
  friend constexpr bool operator op(U a, self b) { return a op float(b); }
  SIMT_COMPARISON(==)
  SIMT_COMPARISON(!=)
  SIMT_COMPARISON(<)
  SIMT_COMPARISON(>)
  SIMT_COMPARISON(<=)
  SIMT_COMPARISON(>=)
#undef SIMT_COMPARISON
  friend constexpr self operator-(self a) { return from_bits(a.bits ^ 0x8000); }
  friend constexpr self operator+(self a) { return a; }
};

using half = small_float<half_format, true>;
using bfloat = small_float<bfloat_format, false>;

}  // namespace simt
