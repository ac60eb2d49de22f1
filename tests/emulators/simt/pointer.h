// pointer<Space, T>: a checked pointer whose type says in which memory it points; ref<Space, T>: what p[i] is where T can change.
#pragma once
#include "memory.h"

namespace simt {

template <class Space, class T>
struct pointer;
template <class Space, class T>
struct ref;

template <class T>
struct is_ref : std::false_type {};
template <class Space, class T>
struct is_ref<ref<Space, T>> : std::true_type {};
template <class T>
inline constexpr bool is_small_float = false;
template <class F, bool i>
inline constexpr bool is_small_float<small_float<F, i>> = true;

// The value that a reference stands for; anything else is itself.
template <class T>
constexpr const T& plain(const T& value) {
  return value;
}
template <class Space, class T>
inline T plain(const ref<Space, T>& reference) {
  return reference.load();
}
template <class T>
using plain_t = std::decay_t<decltype(plain(std::declval<const std::decay_t<T>&>()))>;

template <class Space, class T>
struct ref_base {
  using value_type = T;
  T* address;
  buffer* in;

  T load() const {
    check_read(in, address, sizeof(T), alignof(T));
    return *address;
  }
  void store(const T& value) const {
    check_write(in, address, sizeof(T), alignof(T));
    *address = value;
  }
  // Only to T itself, or from a small float to float, without a cast: as the language converts an lvalue.
  template <class U, std::enable_if_t<std::is_same_v<U, T> || (is_small_float<T> && std::is_same_v<U, float>), int> = 0>
  operator U() const {
    return U(load());
  }
  template <class U, std::enable_if_t<!std::is_same_v<U, T> && !(is_small_float<T> && std::is_same_v<U, float>) &&
                                          std::is_constructible_v<U, T> && !is_ref<U>::value, int> = 0>
  explicit operator U() const {
    return U(load());
  }
  pointer<Space, T> operator&() const { return {address, in}; }
};

#define SIMT_ASSIGNMENTS(Ref)                     \
  template <class U>                              \
  const Ref& operator=(U value) const { /* by value: an index one past an array's end is found */ \
    const typename Ref::value_type converted = plain(value); \
    this->store(converted);                       \
    return *this;                                 \
  }                                               \
  const Ref& operator=(const Ref& other) const {  \
    this->store(other.load());                    \
    return *this;                                 \
  }                                               \
  Ref(const Ref&) = default;                      \
  Ref(typename Ref::value_type* address, buffer* in) : Ref::ref_base{address, in} {}

template <class Space, class T>
struct ref : ref_base<Space, T> {
  SIMT_ASSIGNMENTS(ref)
};

#define SIMT_REF_BINARY(op)                                                                                         \
  template <class A, class B, std::enable_if_t<is_ref<A>::value || is_ref<B>::value, int> = 0>                      \
  auto operator op(const A& a, const B& b) -> std::decay_t<decltype(std::declval<plain_t<A>>() op std::declval<plain_t<B>>())> { \
    return plain(a) op plain(b);                                                                                    \
  }
#define SIMT_REF_COMPOUND(op, assign)                                       \
  template <class Space, class T, class U>                                  \
  const ref<Space, T>& operator assign(const ref<Space, T>& a, U b) { \
    T value = a.load();                                                     \
    value assign plain(b);                                                  \
    a.store(value);                                                         \
    return a;                                                               \
  }                                                                         \
  SIMT_REF_BINARY(op)
SIMT_REF_COMPOUND(+, +=)
SIMT_REF_COMPOUND(-, -=)
SIMT_REF_COMPOUND(*, *=)
SIMT_REF_COMPOUND(/, /=)
SIMT_REF_COMPOUND(%, %=)
SIMT_REF_COMPOUND(&, &=)
SIMT_REF_COMPOUND(|, |=)
SIMT_REF_COMPOUND(^, ^=)
SIMT_REF_COMPOUND(<<, <<=)
SIMT_REF_COMPOUND(>>, >>=)
SIMT_REF_BINARY(==)
SIMT_REF_BINARY(!=)
SIMT_REF_BINARY(<)
SIMT_REF_BINARY(>)
SIMT_REF_BINARY(<=)
SIMT_REF_BINARY(>=)
#undef SIMT_REF_COMPOUND
#undef SIMT_REF_BINARY
template <class Space, class T>
auto operator-(const ref<Space, T>& a) -> decltype(-a.load()) {
  return -a.load();
}
template <class Space, class T>
auto operator~(const ref<Space, T>& a) -> decltype(~a.load()) {
  return ~a.load();
}
template <class Space, class T>
bool operator!(const ref<Space, T>& a) {
  return !a.load();
}
template <class Space, class T>
T operator++(const ref<Space, T>& a, int) {
  const T value = a.load();
  a.store(value + T(1));
  return value;
}
template <class Space, class T>
T operator++(const ref<Space, T>& a) {
  a.store(a.load() + T(1));
  return a.load();
}

// `auto v = take_value <<= tile[i]` reads now: a reference kept in v would read later.
struct value_taker {
  template <class T>
  constexpr plain_t<T> operator<<=(const T& value) const {
    return plain(value);
  }
};
inline constexpr value_taker take_value{};

struct pointer_storage {
  const volatile void* raw = nullptr;
  buffer* in = nullptr;
};

// Space::shared: it is threadgroup memory, where what is read may change under a reference.
// A pointer to T derives from one to const T, so that a function template that takes `const T*` deduces T.
template <class Space, class T>
struct pointer : std::conditional_t<std::is_const_v<T>, pointer_storage, pointer<Space, const T>> {
  using base = std::conditional_t<std::is_const_v<T>, pointer_storage, pointer<Space, const T>>;
  using base::in;
  using base::raw;
  using element = std::remove_all_extents_t<T>;

  pointer() = default;
  pointer(std::nullptr_t) {}
  pointer(T* address, buffer* in) : base{address, in} {}
  template <class U, std::enable_if_t<!std::is_same_v<const U, T> && !std::is_same_v<U, T>, int> = 0>
  explicit pointer(const pointer<Space, U>& other) : base{(T*)other.raw, other.in} {
    static_assert(std::is_const_v<T> || !std::is_const_v<U>, "a cast that takes `const` away");
    if (in) in->refine(sizeof(element) < 4 ? sizeof(element) : 4);
  }
  template <class Other, class U, std::enable_if_t<!std::is_same_v<Other, Space>, int> = 0>
  pointer(const pointer<Other, U>&) = delete;  // another address space

  T* address() const { return (T*)raw; }
  decltype(auto) operator[](std::ptrdiff_t i) const {
    T* const at = moved(i);
    if constexpr (std::is_array_v<T>) {
      using row = std::remove_extent_t<T>;
      return pointer<Space, row>(reinterpret_cast<row*>(at), in);
    } else if constexpr (!std::is_const_v<T>) {
      return ref<Space, T>(at, in);
    } else if constexpr (Space::shared) {
      check_read(in, at, sizeof(T), alignof(T));
      return std::remove_const_t<T>(*at);
    } else {
      check_read(in, at, sizeof(T), alignof(T));
      return (*at);
    }
  }
  decltype(auto) operator*() const { return (*this)[0]; }
  const T* operator->() const {
    check_read(in, address(), sizeof(T), alignof(T));
    return address();
  }
  explicit operator bool() const { return raw != nullptr; }

  pointer operator+(std::ptrdiff_t n) const { return {moved(n), in}; }
  friend pointer operator+(std::ptrdiff_t n, pointer p) { return p + n; }
  pointer operator-(std::ptrdiff_t n) const { return {moved(-n), in}; }
  std::ptrdiff_t operator-(pointer other) const { return address() - other.address(); }
  pointer& operator+=(std::ptrdiff_t n) { return *this = *this + n; }
  pointer& operator-=(std::ptrdiff_t n) { return *this = *this - n; }
  pointer& operator++() { return *this += 1; }
  pointer& operator--() { return *this -= 1; }
  pointer operator++(int) {
    pointer before = *this;
    *this += 1;
    return before;
  }
  friend bool operator==(pointer a, pointer b) { return a.raw == b.raw; }
  friend bool operator!=(pointer a, pointer b) { return a.raw != b.raw; }
  friend bool operator<(pointer a, pointer b) { return a.raw < b.raw; }
  friend bool operator>(pointer a, pointer b) { return a.raw > b.raw; }

 private:
  T* moved(std::ptrdiff_t n) const {  // may leave the buffer: only an access is checked
    return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(raw) + std::uintptr_t(n) * sizeof(T));
  }
};

template <class To, class Space, class U>
To pointer_cast(const pointer<Space, U>& from) {
  return To(from);
}

}  // namespace simt
