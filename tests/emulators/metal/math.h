// Metal's scalar functions, for scalars and vectors alike. Where Metal's overloads make a call with mixed types ambiguous,
// it does not compile here either.
#pragma once
#include "vec.h"

namespace msl {

template <class A, class... Rest>
constexpr void same_types() {
  static_assert((std::is_same_v<A, Rest> && ...), "arguments of different types: ambiguous in Metal, cast them");
}
template <class T>
inline constexpr bool is_float_v = std::is_same_v<scalar_t<T>, float> || is_small_float<scalar_t<T>>;

// f in float for each component; an integer argument is ambiguous in Metal
#define MSL_UNARY(name, expression)                                          \
  template <class A>                                                         \
  auto name(A a) {                                                    \
    using T = plain_t<A>;                                                    \
    static_assert(is_float_v<T>, #name " of a type that is not floating point"); \
    return map<scalar_t<T>>(T(plain(a)), [](scalar_t<T> v) {                 \
      const float x = float(v);                                              \
      return scalar_t<T>(expression);                                        \
    });                                                                      \
  }
MSL_UNARY(exp, __builtin_expf(x))
MSL_UNARY(exp2, __builtin_exp2f(x))
MSL_UNARY(exp10, __builtin_exp10f(x))
MSL_UNARY(log, __builtin_logf(x))
MSL_UNARY(log2, __builtin_log2f(x))
MSL_UNARY(log10, __builtin_log10f(x))
MSL_UNARY(sqrt, __builtin_sqrtf(x))
MSL_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))
MSL_UNARY(floor, __builtin_floorf(x))
MSL_UNARY(ceil, __builtin_ceilf(x))
MSL_UNARY(trunc, __builtin_truncf(x))
MSL_UNARY(round, __builtin_roundf(x))
MSL_UNARY(rint, __builtin_rintf(x))
MSL_UNARY(sin, __builtin_sinf(x))
MSL_UNARY(cos, __builtin_cosf(x))
MSL_UNARY(tan, __builtin_tanf(x))
MSL_UNARY(sinh, __builtin_sinhf(x))
MSL_UNARY(cosh, __builtin_coshf(x))
MSL_UNARY(tanh, __builtin_tanhf(x))
MSL_UNARY(asin, __builtin_asinf(x))
MSL_UNARY(acos, __builtin_acosf(x))
MSL_UNARY(atan, __builtin_atanf(x))
MSL_UNARY(fabs, __builtin_fabsf(x))
MSL_UNARY(fract, x - __builtin_floorf(x))
MSL_UNARY(saturate, x > 0 ? (x < 1 ? x : 1.0f) : 0.0f)
MSL_UNARY(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? x : 0.0f)
#undef MSL_UNARY

#define MSL_TEST(name, expression)                                           \
  template <class A>                                                         \
  auto name(A a) {                                                    \
    using T = plain_t<A>;                                                    \
    return map<bool>(T(plain(a)), [](scalar_t<T> v) {                        \
      const float x = float(v);                                              \
      return bool(expression);                                               \
    });                                                                      \
  }
MSL_TEST(isnan, __builtin_isnan(x))
MSL_TEST(isinf, __builtin_isinf(x))
MSL_TEST(isfinite, __builtin_isfinite(x))
MSL_TEST(signbit, __builtin_signbit(x))
#undef MSL_TEST

// f(a, b) and f(a, b, c) of values of one type; `v` is that type's scalar
#define MSL_BINARY(name, expression)                                         \
  template <class A, class B>                                                \
  auto name(A first, B second) {                               \
    using T = plain_t<A>;                                                    \
    same_types<T, plain_t<B>>();                                             \
    using V = scalar_t<T>;                                                   \
    [[maybe_unused]] constexpr bool floating = is_float_v<T>;                \
    const T p = plain(first), q = plain(second);                             \
    int i = 0;                                                               \
    return map<V>(p, [&](V a) {                                              \
      V b;                                                                   \
      if constexpr (is_vec<T>::value) b = q.at(i++);                         \
      else b = q;                                                            \
      return V(expression);                                                  \
    });                                                                      \
  }
MSL_BINARY(min, b < a || (floating && a != a) ? b : a)
MSL_BINARY(max, a < b || (floating && a != a) ? b : a)
MSL_BINARY(fmin, __builtin_fminf(float(a), float(b)))
MSL_BINARY(fmax, __builtin_fmaxf(float(a), float(b)))
MSL_BINARY(fmod, __builtin_fmodf(float(a), float(b)))
MSL_BINARY(pow, __builtin_powf(float(a), float(b)))
MSL_BINARY(powr, __builtin_powf(float(a), float(b)))
MSL_BINARY(atan2, __builtin_atan2f(float(a), float(b)))
MSL_BINARY(copysign, __builtin_copysignf(float(a), float(b)))
MSL_BINARY(step, float(b) < float(a) ? 0.0f : 1.0f)
MSL_BINARY(divide, a / b)
MSL_BINARY(mulhi, ((sizeof(V) == 4 && V(-1) > V(0)) ? V((ulong(a) * ulong(b)) >> 32) : V((long(a) * long(b)) >> (8 * sizeof(V)))))
MSL_BINARY(absdiff, a < b ? b - a : a - b)
MSL_BINARY(rotate, (a << (b & (8 * sizeof(V) - 1))) | (a >> ((8 * sizeof(V) - b) & (8 * sizeof(V) - 1))))
#undef MSL_BINARY

template <class A>
auto abs(A a) {
  using T = plain_t<A>;
  static_assert(std::is_signed_v<scalar_t<T>> || is_small_float<scalar_t<T>>, "abs of an unsigned type");
  return map<scalar_t<T>>(T(plain(a)), [](scalar_t<T> v) {
    if constexpr (is_float_v<T>) return scalar_t<T>(__builtin_fabsf(float(v)));
    else return scalar_t<T>(v < 0 ? -v : v);
  });
}
template <class A, class B, class C>
auto clamp(A a, B low, C high) {
  same_types<plain_t<A>, plain_t<B>, plain_t<C>>();
  return min(max(a, low), high);
}
inline float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
template <class F, bool i>
small_float<F, i> fma_scalar(small_float<F, i> a, small_float<F, i> b, small_float<F, i> c) {
  return small_float<F, i>(float(double(float(a)) * double(float(b)) + double(float(c))));
}
template <class A, class B, class C>
auto fma(A first, B second, C third) {
  using T = plain_t<A>;
  same_types<T, plain_t<B>, plain_t<C>>();
  static_assert(is_float_v<T>, "fma of a type that is not floating point");
  const T a = plain(first), b = plain(second), c = plain(third);
  if constexpr (is_vec<T>::value) {
    T result;
    for (int i = 0; i < T::size; ++i) result.at(i) = fma_scalar(a.at(i), b.at(i), c.at(i));
    return result;
  } else {
    return fma_scalar(a, b, c);
  }
}
template <class A, class B, class C>
auto mix(A a, B b, C t) {
  return plain(a) + (plain(b) - plain(a)) * plain(t);
}
// c ? b : a
template <class A, class B, class C>
auto select(A a, B b, C c) {
  using T = plain_t<A>;
  same_types<T, plain_t<B>>();
  if constexpr (is_vec<plain_t<C>>::value) {
    T result = plain(a);
    const T other = plain(b);
    for (int i = 0; i < T::size; ++i)
      if (plain(c).at(i)) result.at(i) = other.at(i);
    return result;
  } else {
    static_assert(std::is_same_v<plain_t<C>, bool>, "select wants a bool");
    return plain(c) ? T(plain(b)) : T(plain(a));
  }
}
template <class To, class From>
To as_type(From from) {
  using T = plain_t<From>;
  static_assert(sizeof(To) == sizeof(T), "as_type between types of different sizes");
  const T value = plain(from);
  To to;
  std::memcpy(&to, &value, sizeof to);
  return to;
}

#define MSL_BITS(name, expression)                                           \
  template <class A>                                                         \
  auto name(A a) {                                                    \
    using T = plain_t<A>;                                                    \
    using V = scalar_t<T>;                                                   \
    static_assert(std::is_integral_v<V>, #name " of a type that is not an integer"); \
    constexpr int bits = 8 * sizeof(V);                                      \
    return map<V>(T(plain(a)), [](V v) {                                     \
      const ulong x = std::make_unsigned_t<V>(v);                            \
      return V(expression);                                                  \
    });                                                                      \
  }
MSL_BITS(popcount, (void(bits), __builtin_popcountl(x)))
MSL_BITS(clz, x ? __builtin_clzl(x) - (64 - bits) : bits)
MSL_BITS(ctz, x ? __builtin_ctzl(x) : bits)
#undef MSL_BITS
template <class T>
T reverse_bits(T v) {
  T result = 0;
  for (unsigned i = 0; i < 8 * sizeof(T); ++i) result = T(result << 1 | (v >> i & 1));
  return result;
}
template <class A>
auto extract_bits(A a, uint offset, uint bits) {
  using T = plain_t<A>;
  using V = scalar_t<T>;
  if (offset + bits > 8 * sizeof(V)) fail({}, "extract_bits(%u, %u) reaches beyond the value: undefined", offset, bits);
  return map<V>(T(plain(a)), [&](V v) {
    if (!bits) return V(0);
    const int left = 8 * sizeof(V) - offset - bits;
    return V(V(std::make_unsigned_t<V>(v) << left) >> (8 * sizeof(V) - bits));
  });
}
template <class T>
T insert_bits(T base, T insert, uint offset, uint bits) {
  if (offset + bits > 8 * sizeof(T)) fail({}, "insert_bits(%u, %u) reaches beyond the value: undefined", offset, bits);
  const T mask = bits == 8 * sizeof(T) ? T(-1) : T(((ulong(1) << bits) - 1) << offset);
  return T((base & ~mask) | ((insert << offset) & mask));
}

template <class T, int N>
T dot(const vec<T, N>& a, const vec<T, N>& b) {
  T sum = a.at(0) * b.at(0);
  for (int i = 1; i < N; ++i) sum += a.at(i) * b.at(i);
  return sum;
}
template <class A, class B, std::enable_if_t<is_ref<A>::value || is_ref<B>::value, int> = 0>
auto dot(A a, B b) {
  return dot(plain(a), plain(b));
}
template <int N>
bool any(const vec<bool, N>& a) {
  for (int i = 0; i < N; ++i)
    if (a.at(i)) return true;
  return false;
}
template <int N>
bool all(const vec<bool, N>& a) {
  for (int i = 0; i < N; ++i)
    if (!a.at(i)) return false;
  return true;
}

template <class T>
struct numeric_limits : std::numeric_limits<T> {};
template <>
struct numeric_limits<half> {
  static constexpr half max() { return half::from_bits(0x7bff); }
  static constexpr half min() { return half::from_bits(0x0400); }
  static constexpr half lowest() { return half::from_bits(0xfbff); }
  static constexpr half epsilon() { return half::from_bits(0x1400); }
  static constexpr half infinity() { return half::from_bits(0x7c00); }
  static constexpr half quiet_NaN() { return half::from_bits(0x7e00); }
};
template <>
struct numeric_limits<bfloat> {
  static constexpr bfloat max() { return bfloat::from_bits(0x7f7f); }
  static constexpr bfloat min() { return bfloat::from_bits(0x0080); }
  static constexpr bfloat lowest() { return bfloat::from_bits(0xff7f); }
  static constexpr bfloat epsilon() { return bfloat::from_bits(0x3c00); }
  static constexpr bfloat infinity() { return bfloat::from_bits(0x7f80); }
  static constexpr bfloat quiet_NaN() { return bfloat::from_bits(0x7fc0); }
};

using std::bool_constant, std::conditional_t, std::enable_if_t, std::false_type, std::integral_constant, std::is_const_v,
    std::is_integral_v, std::is_same_v, std::is_signed_v, std::is_unsigned_v, std::remove_const_t, std::remove_cv_t,
    std::remove_reference_t, std::true_type;
template <class T>
inline constexpr bool is_floating_point_v = is_float_v<T>;

#define MSL_ACCURATE using msl::exp, msl::exp2, msl::log, msl::log2, msl::sqrt, msl::rsqrt, msl::sin, msl::cos, msl::tanh, \
    msl::pow, msl::powr, msl::divide, msl::fma, msl::floor, msl::ceil, msl::round, msl::rint, msl::trunc, msl::fabs, msl::abs, \
    msl::fmin, msl::fmax, msl::min, msl::max, msl::clamp, msl::fmod;
namespace fast { MSL_ACCURATE }
namespace precise { MSL_ACCURATE }
#undef MSL_ACCURATE

}  // namespace msl
