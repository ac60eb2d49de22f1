// Address spaces, scalar and vector types of the Metal Shading Language.
#pragma once
#include <cfloat>
#include <climits>
#include <cmath>
#include <limits>

#include "checks.h"

namespace msl {

using namespace simt;
struct device {
  static constexpr bool shared = false;
};
struct constant {
  static constexpr bool shared = false;
};
struct threadgroup {
  static constexpr bool shared = true;
};
template <class Space, class T>
using ptr = pointer<Space, T>;

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
using std::int16_t, std::int32_t, std::int64_t, std::int8_t, std::uint16_t, std::uint32_t, std::uint64_t, std::uint8_t;
using std::ptrdiff_t, std::size_t;
using bfloat16_t = bfloat;
using float16_t = half;

template <class T>
inline constexpr bool is_scalar_v = std::is_arithmetic_v<T> || is_small_float<T>;

template <class T, int N>
struct vec;
template <class T>
struct is_vec : std::false_type {};
template <class T, int N>
struct is_vec<vec<T, N>> : std::true_type {};

template <class T>
inline constexpr int parts = 1;
template <class T, int N>
inline constexpr int parts<vec<T, N>> = N;

template <class T, int N>
struct vec_data;
template <class T>
struct alignas(2 * sizeof(T)) vec_data<T, 2> {
  T x, y;
};
template <class T>
struct alignas(4 * sizeof(T)) vec_data<T, 3> {
  T x, y, z;
};
template <class T>
struct alignas(4 * sizeof(T)) vec_data<T, 4> {
  T x, y, z, w;
};

template <class T, int N>
struct vec : vec_data<T, N> {
  using scalar = T;
  static constexpr int size = N;

  vec() = default;
  template <class S, std::enable_if_t<is_scalar_v<S> && std::is_convertible_v<S, T>, int> = 0>
  vec(S value) {
    for (int i = 0; i < N; ++i) at(i) = value;
  }
  template <class S, std::enable_if_t<is_scalar_v<S> && !std::is_convertible_v<S, T>, int> = 0>
  explicit vec(S value) {
    for (int i = 0; i < N; ++i) at(i) = T(value);
  }
  template <class U, std::enable_if_t<!std::is_same_v<U, T>, int> = 0>
  explicit vec(const vec<U, N>& other) {
    for (int i = 0; i < N; ++i) at(i) = T(other.at(i));
  }
  template <class A, class B, class... Rest>
  vec(A a, B b, Rest... rest) {
    static_assert(parts<plain_t<A>> + parts<plain_t<B>> + (0 + ... + parts<plain_t<Rest>>) == N, "as many values as the vector has");
    int used = 0;
    put(used, plain(a));
    put(used, plain(b));
    (put(used, plain(rest)), ...);
  }

  T& at(int i) { return reinterpret_cast<T*>(this)[i]; }
  const T& at(int i) const { return reinterpret_cast<const T*>(this)[i]; }
  T& operator[](unsigned i) { return check(i), at(i); }
  const T& operator[](unsigned i) const { return check(i), at(i); }
  template <class... I>
  vec<T, sizeof...(I)> swizzle(I... i) const {
    return {(check(i), at(i))...};
  }

 private:
  template <class U>
  void put(int& used, const U& value) {
    if constexpr (is_vec<U>::value)
      for (int i = 0; i < U::size; ++i) at(used++) = T(value.at(i));
    else
      at(used++) = T(value);
  }
  static void check(unsigned i) {
    if (i >= unsigned(N)) fail({}, "component %u of a vector of %d", i, N);
  }
};

#define MSL_VEC_OPERATOR(op, R)                                                                     \
  template <class T, int N>                                                                         \
  vec<R, N> operator op(const vec<T, N>& a, const vec<T, N>& b) {                                   \
    vec<R, N> result;                                                                               \
    for (int i = 0; i < N; ++i) result.at(i) = R(a.at(i) op b.at(i));                               \
    return result;                                                                                  \
  }                                                                                                 \
  template <class T, int N, class S, std::enable_if_t<is_scalar_v<S>, int> = 0>                     \
  vec<R, N> operator op(const vec<T, N>& a, S b) {                                                  \
    return a op vec<T, N>(b);                                                                       \
  }                                                                                                 \
  template <class T, int N, class S, std::enable_if_t<is_scalar_v<S>, int> = 0>                     \
  vec<R, N> operator op(S a, const vec<T, N>& b) {                                                  \
    return vec<T, N>(a) op b;                                                                       \
  }
#define MSL_VEC_ARITHMETIC(op, assign)                        \
  MSL_VEC_OPERATOR(op, T)                                     \
  template <class T, int N, class U>                          \
  vec<T, N>& operator assign(vec<T, N>& a, U b) {      \
    return a = a op plain(b);                                 \
  }
MSL_VEC_ARITHMETIC(+, +=)
MSL_VEC_ARITHMETIC(-, -=)
MSL_VEC_ARITHMETIC(*, *=)
MSL_VEC_ARITHMETIC(/, /=)
MSL_VEC_ARITHMETIC(%, %=)
MSL_VEC_ARITHMETIC(&, &=)
MSL_VEC_ARITHMETIC(|, |=)
MSL_VEC_ARITHMETIC(^, ^=)
MSL_VEC_ARITHMETIC(<<, <<=)
MSL_VEC_ARITHMETIC(>>, >>=)
MSL_VEC_OPERATOR(==, bool)
MSL_VEC_OPERATOR(!=, bool)
MSL_VEC_OPERATOR(<, bool)
MSL_VEC_OPERATOR(>, bool)
MSL_VEC_OPERATOR(<=, bool)
MSL_VEC_OPERATOR(>=, bool)
#undef MSL_VEC_ARITHMETIC
#undef MSL_VEC_OPERATOR

// f of each component, or of a scalar
template <class R, class T, class F>
auto map(const T& a, F&& f) {
  if constexpr (is_vec<T>::value) {
    vec<R, T::size> result;
    for (int i = 0; i < T::size; ++i) result.at(i) = f(a.at(i));
    return result;
  } else {
    return R(f(a));
  }
}
template <class T>
struct scalar_of {
  using type = T;
};
template <class T, int N>
struct scalar_of<vec<T, N>> {
  using type = T;
};
template <class T>
using scalar_t = typename scalar_of<T>::type;

template <class T, int N>
vec<T, N> operator-(const vec<T, N>& a) {
  return map<T>(a, [](T v) { return T(-v); });
}
template <class T, int N>
vec<T, N> operator~(const vec<T, N>& a) {
  return map<T>(a, [](T v) { return T(~v); });
}
template <class T, int N>
vec<T, N> operator!(const vec<T, N>& a) {
  return map<T>(a, [](T v) { return T(!v); });
}

#define MSL_VECTORS(T) \
  using T##2 = vec<T, 2>; \
  using T##3 = vec<T, 3>; \
  using T##4 = vec<T, 4>;
MSL_VECTORS(bool)
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
MSL_VECTORS(half)
MSL_VECTORS(bfloat)
MSL_VECTORS(float)
#undef MSL_VECTORS

}  // namespace msl

namespace simt {  // v.x of a vector in memory: a reference to its component

template <class Space, class T>
struct ref<Space, msl::vec<T, 2>> : ref_base<Space, msl::vec<T, 2>> {
  ref<Space, T> x{&this->address->x, this->in}, y{&this->address->y, this->in};
  SIMT_ASSIGNMENTS(ref)
};
template <class Space, class T>
struct ref<Space, msl::vec<T, 3>> : ref_base<Space, msl::vec<T, 3>> {
  ref<Space, T> x{&this->address->x, this->in}, y{&this->address->y, this->in}, z{&this->address->z, this->in};
  SIMT_ASSIGNMENTS(ref)
};
template <class Space, class T>
struct ref<Space, msl::vec<T, 4>> : ref_base<Space, msl::vec<T, 4>> {
  ref<Space, T> x{&this->address->x, this->in}, y{&this->address->y, this->in}, z{&this->address->z, this->in},
      w{&this->address->w, this->in};
  SIMT_ASSIGNMENTS(ref)
};

}  // namespace simt
