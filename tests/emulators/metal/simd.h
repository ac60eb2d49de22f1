// What lanes do together. A simdgroup's functions must be reached by all of its lanes at one site; a partial threadgroup's last
// simdgroup has fewer lanes, and what a shuffle reads from a lane that does not exist is all ones (NaN).
#pragma once
#include "math.h"

namespace msl {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4, mem_threadgroup_imageblock = 8 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
constexpr bool operator&(mem_flags a, mem_flags b) { return int(a) & int(b); }

inline void threadgroup_barrier(mem_flags flags, site at = site::here()) {
  barrier("threadgroup_barrier", at, flags & mem_flags::mem_threadgroup, flags & mem_flags::mem_device);
}
inline void simdgroup_barrier(mem_flags flags, site at = site::here()) {
  warp_barrier("simdgroup_barrier", at, present_mask(), flags & mem_flags::mem_threadgroup);
}

inline unsigned quad_mask() { return (0xfu << (lane_id() & ~3u)) & present_mask(); }

// combine over the lanes of the mask in a tree, each step rounded to the type, as the hardware's is; the order is not specified
template <class T, class F>
T reduce(const char* kind, site at, unsigned mask, T value, F combine) {
  return rendezvous<T>(kind, at, mask, value, [&](const T* in, T* out, unsigned mask) {
    T step[warp_lanes];
    unsigned count = 0;
    for (unsigned i = 0; i < warp_lanes; ++i)
      if (mask >> i & 1) step[count++] = in[i];
    for (; count > 1; count = (count + 1) / 2)
      for (unsigned i = 0; i < count / 2; ++i) step[i] = combine(step[i], step[count - 1 - i]);
    for (unsigned i = 0; i < warp_lanes; ++i) out[i] = step[0];
  });
}
template <class T, class F>
T prefix(const char* kind, site at, T value, T start, bool inclusive, F combine) {
  return rendezvous<T>(kind, at, present_mask(), value, [&](const T* in, T* out, unsigned mask) {
    T sum = start;
    for (unsigned i = 0; i < warp_lanes; ++i) {
      if (!(mask >> i & 1)) continue;
      const T after = combine(sum, in[i]);
      out[i] = inclusive ? after : sum;
      sum = after;
    }
  });
}
template <class T>
constexpr void reducible() {
  static_assert(sizeof(scalar_t<T>) <= 4 && !std::is_same_v<scalar_t<T>, bool>, "Metal has no such reduction of this type");
}
#define MSL_REDUCTION(name, expression)                                                       \
  template <class A>                                                                          \
  auto simd_##name(A value, site at = site::here()) {                                  \
    using T = plain_t<A>;                                                                     \
    reducible<T>();                                                                           \
    return reduce<T>("simd_" #name, at, present_mask(), plain(value), [](T a, T b) { return T(expression); }); \
  }                                                                                           \
  template <class A>                                                                          \
  auto quad_##name(A value, site at = site::here()) {                                  \
    using T = plain_t<A>;                                                                     \
    reducible<T>();                                                                           \
    return reduce<T>("quad_" #name, at, quad_mask(), plain(value), [](T a, T b) { return T(expression); }); \
  }
MSL_REDUCTION(sum, a + b)
MSL_REDUCTION(product, a* b)
MSL_REDUCTION(min, min(a, b))
MSL_REDUCTION(max, max(a, b))
MSL_REDUCTION(and, a& b)
MSL_REDUCTION(or, a | b)
MSL_REDUCTION(xor, a ^ b)
#undef MSL_REDUCTION
#define MSL_PREFIX(name, start, expression)                                                                    \
  template <class A>                                                                                           \
  auto simd_prefix_inclusive_##name(A value, site at = site::here()) {                                  \
    using T = plain_t<A>;                                                                                      \
    return prefix<T>("simd_prefix_inclusive_" #name, at, plain(value), T(start), true, [](T a, T b) { return T(expression); }); \
  }                                                                                                            \
  template <class A>                                                                                           \
  auto simd_prefix_exclusive_##name(A value, site at = site::here()) {                                  \
    using T = plain_t<A>;                                                                                      \
    return prefix<T>("simd_prefix_exclusive_" #name, at, plain(value), T(start), false, [](T a, T b) { return T(expression); }); \
  }
MSL_PREFIX(sum, 0, a + b)
MSL_PREFIX(product, 1, a* b)
#undef MSL_PREFIX

// from(lane, argument) is the lane whose value is taken, within `width` lanes; below 0: the lane's own
template <bool uniform, class T, class F>
T shuffle(const char* kind, site at, unsigned mask, T value, unsigned argument, F from) {
  struct given {
    T value;
    unsigned argument;
  };
  return rendezvous<T>(kind, at, mask, given{value, argument}, [&](const given* in, T* out, unsigned mask) {
    for (unsigned i = 0; i < warp_lanes; ++i) {
      if (!(mask >> i & 1)) continue;
      if (uniform && in[i].argument != argument) fail(at, "%s: lanes give different lane numbers or deltas, %u and %u", kind, in[i].argument, argument);
      const int source = from(int(i), in[i].argument);
      if (source >= int(warp_lanes)) fail(at, "%s: lane %u asks for lane %d: undefined", kind, i, source);
      out[i] = in[source < 0 ? i : source].value;
    }
  });
}
#define MSL_SHUFFLE(name, uniform, mask, expression)                                                             \
  template <class A>                                                                                             \
  auto name(A value, ushort argument, site at = site::here()) {                                           \
    using T = plain_t<A>;                                                                                        \
    return shuffle<uniform, T>(#name, at, mask, plain(value), argument, [](int lane, unsigned k) { return int(expression); }); \
  }
MSL_SHUFFLE(simd_shuffle, false, present_mask(), k)
MSL_SHUFFLE(simd_shuffle_xor, true, present_mask(), lane ^ k)
MSL_SHUFFLE(simd_shuffle_down, true, present_mask(), lane + k < warp_lanes ? int(lane + k) : -1)
MSL_SHUFFLE(simd_shuffle_up, true, present_mask(), lane - int(k))
MSL_SHUFFLE(simd_shuffle_rotate_down, true, present_mask(), (lane + k) % warp_lanes)
MSL_SHUFFLE(simd_shuffle_rotate_up, true, present_mask(), (lane - k) % warp_lanes)
MSL_SHUFFLE(simd_broadcast, true, present_mask(), k)
MSL_SHUFFLE(quad_shuffle, false, quad_mask(), k < 4 ? (lane & ~3) + int(k) : int(warp_lanes + k))
MSL_SHUFFLE(quad_shuffle_xor, true, quad_mask(), k < 4 ? lane ^ int(k) : int(warp_lanes + k))
MSL_SHUFFLE(quad_broadcast, true, quad_mask(), k < 4 ? (lane & ~3) + int(k) : int(warp_lanes + k))
#undef MSL_SHUFFLE
template <class A>
auto simd_broadcast_first(A value, site at = site::here()) {
  using T = plain_t<A>;
  return shuffle<true, T>("simd_broadcast_first", at, present_mask(), plain(value), 0, [](int, unsigned) { return 0; });
}
template <class A, class B>
auto simd_shuffle_and_fill_down(A value, B filling, ushort delta, site at = site::here()) {
  using T = plain_t<A>;
  struct given {
    T value, filling;
  };
  return rendezvous<T>("simd_shuffle_and_fill_down", at, present_mask(), given{plain(value), plain(filling)},
                       [&](const given* in, T* out, unsigned) {
                         for (unsigned i = 0; i < warp_lanes; ++i)
                           out[i] = i + delta < warp_lanes ? in[i + delta].value : in[(i + delta) % warp_lanes].filling;
                       });
}
template <class A, class B>
auto simd_shuffle_and_fill_up(A value, B filling, ushort delta, site at = site::here()) {
  using T = plain_t<A>;
  struct given {
    T value, filling;
  };
  return rendezvous<T>("simd_shuffle_and_fill_up", at, present_mask(), given{plain(value), plain(filling)},
                       [&](const given* in, T* out, unsigned) {
                         for (unsigned i = 0; i < warp_lanes; ++i)
                           out[i] = i >= delta ? in[i - delta].value : in[(i + warp_lanes - delta) % warp_lanes].filling;
                       });
}

class simd_vote {
 public:
  using vote_t = ulong;
  explicit simd_vote(vote_t bits) : bits(bits) {}
  explicit operator vote_t() const { return bits; }
  bool all() const { return bits == present_mask(); }
  bool any() const { return bits; }

 private:
  vote_t bits;
};
inline simd_vote simd_ballot(bool value, site at = site::here()) {
  return simd_vote(reduce<uint>("simd_ballot", at, present_mask(), uint(value) << lane_id(), [](uint a, uint b) { return a | b; }));
}
inline bool simd_all(bool value, site at = site::here()) {
  return reduce<uint>("simd_all", at, present_mask(), value, [](uint a, uint b) { return a & b; });
}
inline bool simd_any(bool value, site at = site::here()) {
  return reduce<uint>("simd_any", at, present_mask(), value, [](uint a, uint b) { return a | b; });
}
inline bool simd_is_first() { return lane_id() == 0; }
inline simd_vote simd_active_threads_mask() { return simd_vote(present_mask()); }

}  // namespace msl
