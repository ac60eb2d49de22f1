// The part of cuda::std that MLX's own header brings (array, limits, tuple's traits), and MLX's Shape and Strides.
#pragma once

namespace cuda::std {

template <class T, T v>
struct integral_constant {
  static constexpr T value = v;
  using type = integral_constant;
  constexpr operator T() const { return v; }
};
template <bool v>
using bool_constant = integral_constant<bool, v>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;
template <class A, class B>
inline constexpr bool is_same_v = __is_same(A, B);
template <class A, class B>
struct is_same : bool_constant<__is_same(A, B)> {};
template <bool condition, class A, class B>
struct conditional { using type = A; };
template <class A, class B>
struct conditional<false, A, B> { using type = B; };
template <bool condition, class A, class B>
using conditional_t = typename conditional<condition, A, B>::type;
template <bool condition, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> { using type = T; };
template <bool condition, class T = void>
using enable_if_t = typename enable_if<condition, T>::type;
template <class T>
struct remove_cv { using type = T; };
template <class T>
struct remove_cv<const T> { using type = T; };
template <class T>
struct remove_cv<volatile T> { using type = T; };
template <class T>
struct remove_cv<const volatile T> { using type = T; };
template <class T>
using remove_cv_t = typename remove_cv<T>::type;
template <class T>
using remove_const_t = remove_cv_t<T>;
template <class T>
struct remove_reference { using type = T; };
template <class T>
struct remove_reference<T&> { using type = T; };
template <class T>
struct remove_reference<T&&> { using type = T; };
template <class T>
using remove_reference_t = typename remove_reference<T>::type;
template <class T>
using decay_t = remove_cv_t<remove_reference_t<T>>;
template <class T>
struct remove_pointer { using type = T; };
template <class T>
struct remove_pointer<T*> { using type = T; };
template <class T>
using remove_pointer_t = typename remove_pointer<T>::type;
template <class T>
inline constexpr bool is_floating_point_v = is_same_v<remove_cv_t<T>, float> || is_same_v<remove_cv_t<T>, double>;
template <class T>
remove_reference_t<T>&& declval();

template <class T, size_t N>
struct array {
  T data_[N];
  constexpr T& operator[](size_t i) { return data_[i]; }
  constexpr const T& operator[](size_t i) const { return data_[i]; }
  constexpr const T* data() const { return data_; }
  constexpr size_t size() const { return N; }
};

template <class T>
struct numeric_limits;
#define SIMT_LIMITS(T, lowest_, min_, max_)                 \
  template <>                                               \
  struct numeric_limits<T> {                                \
    static constexpr T lowest() { return lowest_; }         \
    static constexpr T min() { return min_; }               \
    static constexpr T max() { return max_; }               \
    static constexpr T infinity() { return __builtin_inff(); } \
    static constexpr T quiet_NaN() { return __builtin_nanf(""); } \
  };
SIMT_LIMITS(float, -__FLT_MAX__, __FLT_MIN__, __FLT_MAX__)
SIMT_LIMITS(double, -__DBL_MAX__, __DBL_MIN__, __DBL_MAX__)
#undef SIMT_LIMITS
#define SIMT_LIMITS(T, min_, max_)                  \
  template <>                                       \
  struct numeric_limits<T> {                        \
    static constexpr T lowest() { return min_; }    \
    static constexpr T min() { return min_; }       \
    static constexpr T max() { return max_; }       \
  };
SIMT_LIMITS(int, -__INT_MAX__ - 1, __INT_MAX__)
SIMT_LIMITS(unsigned, 0, __INT_MAX__ * 2u + 1)

}  // namespace cuda::std

namespace mlx::core::cu {

using Shape = cuda::std::array<int32_t, MAX_NDIM>;
using Strides = cuda::std::array<int64_t, MAX_NDIM>;

}  // namespace mlx::core::cu

namespace cooperative_groups {

struct simt_grid_group {
  unsigned long thread_rank() const {
    const unsigned long block = (blockIdx.z * gridDim.y + blockIdx.y) * (unsigned long)gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    return block * (blockDim.x * blockDim.y * blockDim.z) + thread;
  }
};
struct simt_block_group {
  unsigned thread_rank() const { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
  unsigned size() const { return blockDim.x * blockDim.y * blockDim.z; }
  void sync(SIMT_LINE) const { simt_syncthreads(line); }
};
inline simt_grid_group this_grid() { return {}; }
inline simt_block_group this_thread_block() { return {}; }

}  // namespace cooperative_groups
