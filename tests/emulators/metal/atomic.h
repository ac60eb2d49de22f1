// Relaxed atomics. Lanes run one after another, so each operation is indivisible; they are left out of the race check.
#pragma once
#include "math.h"

namespace msl {

template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
enum memory_order { memory_order_relaxed };

template <class Space, class T, class F>
T atomic_update(pointer<Space, atomic<T>> p, F&& after) {
  buffer* const b = p.in;
  T* const at = &p.address()->value;
  if (!b || !inside(b, at, sizeof(T), alignof(T))) out_of_bounds(b, at, sizeof(T), true);
  const T before = *at;
  *at = after(before);
  if (b->cells)
    for (std::size_t i = 0; i < sizeof(T) / b->unit; ++i) b->cells[(reinterpret_cast<char*>(at) - b->base) / b->unit + i].write = now(*b);
  return before;
}
#define MSL_ATOMIC(name, expression)                                                                       \
  template <class Space, class T, class U>                                                                 \
  T name(pointer<Space, atomic<T>> p, const U& operand, memory_order) {                                    \
    const T b = plain(operand);                                                                            \
    return atomic_update(p, [&](T a) { return T(expression); });                                           \
  }
MSL_ATOMIC(atomic_fetch_add_explicit, a + b)
MSL_ATOMIC(atomic_fetch_sub_explicit, a - b)
MSL_ATOMIC(atomic_fetch_min_explicit, min(a, b))
MSL_ATOMIC(atomic_fetch_max_explicit, max(a, b))
MSL_ATOMIC(atomic_fetch_and_explicit, a& b)
MSL_ATOMIC(atomic_fetch_or_explicit, a | b)
MSL_ATOMIC(atomic_fetch_xor_explicit, a ^ b)
MSL_ATOMIC(atomic_exchange_explicit, (void(a), b))
MSL_ATOMIC(atomic_store_explicit, (void(a), b))
#undef MSL_ATOMIC
template <class Space, class T>
T atomic_load_explicit(pointer<Space, atomic<T>> p, memory_order) {
  return atomic_update(p, [](T a) { return a; });
}
template <class Space, class T, class U>
bool atomic_compare_exchange_weak_explicit(pointer<Space, atomic<T>> p, T* expected, U desired, memory_order, memory_order) {
  const T before = atomic_update(p, [&](T a) { return a == *expected ? T(desired) : a; });
  const bool same = before == *expected;
  *expected = before;
  return same;
}

}  // namespace msl
