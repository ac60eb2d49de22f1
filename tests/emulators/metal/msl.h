// The Metal Shading Language as C++17 for one kernel, after rewrite.py: types, functions, and the launch of a grid.
#pragma once
#include "atomic.h"
#include "matrix.h"

#define METAL_FUNC __attribute__((always_inline)) inline
#define MLX_MTL_PRAGMA_UNROLL
#define MLX_MTL_CONST static constexpr const
#define __METAL_VERSION__ 310
#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.693147180559945309417f
#define HALF_MAX half(65504.0f)

namespace msl {

struct given_buffer {  // as build by __init__.py
  const char* name;
  char* base;
  std::size_t bytes;
  std::uint32_t item_bytes;
  std::uint32_t writable, initialised, atomic;
};
struct launch {
  const char* kernel;
  std::uint32_t grid[3], group[3], buffers;
  given_buffer buffer[64];
};

struct grid_state {
  std::uint32_t grid[3], dispatched[3], groups[3], group[3], size[3];  // threads, group as dispatched, groups, this group, its size
  simt::buffer buffers[64];
};
inline grid_state g;

template <class T>
struct argument_of;
template <class Space, class T>
struct argument_of<pointer<Space, T>> {
  static pointer<Space, T> get(unsigned i) { return {reinterpret_cast<T*>(g.buffers[i].base), &g.buffers[i]}; }
};
template <class T>
struct argument_of<const T&> {
  static const T& get(unsigned i) { return *reinterpret_cast<const T*>(g.buffers[i].base); }
};
template <class T>
decltype(auto) argument(unsigned i) {
  return argument_of<T>::get(i);
}

// T[8][9] -> a pointer to T[9]; T[8] -> a pointer to T
template <class T>
pointer<threadgroup, std::remove_extent_t<T>> shared(unsigned id, const char* name) {
  using element = std::remove_all_extents_t<T>;
  constexpr std::uint32_t unit = sizeof(scalar_t<element>) < 4 ? sizeof(scalar_t<element>) : 4;
  simt::buffer* b = simt::shared(id, name, sizeof(T), alignof(T), unit);
  return {reinterpret_cast<std::remove_extent_t<T>*>(b->base), b};
}

namespace attribute {
inline uint3 of(const std::uint32_t (&v)[3]) { return {v[0], v[1], v[2]}; }
inline uint count(const std::uint32_t (&v)[3], uint width) { return (v[0] * v[1] * v[2] + width - 1) / width; }
inline uint thread_index_in_threadgroup() { return lane_in_group(); }
inline uint3 thread_position_in_threadgroup() {
  const uint i = lane_in_group();
  return {i % g.size[0], i / g.size[0] % g.size[1], i / (g.size[0] * g.size[1])};
}
inline uint3 threadgroup_position_in_grid() { return of(g.group); }
inline uint3 thread_position_in_grid() { return of(g.group) * of(g.dispatched) + thread_position_in_threadgroup(); }
inline uint3 threads_per_grid() { return of(g.grid); }
inline uint3 grid_size() { return of(g.grid); }
inline uint3 grid_origin() { return {0u, 0u, 0u}; }
inline uint3 threadgroups_per_grid() { return of(g.groups); }
inline uint3 threads_per_threadgroup() { return of(g.size); }
inline uint3 dispatch_threads_per_threadgroup() { return of(g.dispatched); }
inline uint thread_index_in_simdgroup() { return lane_id(); }
inline uint simdgroup_index_in_threadgroup() { return warp_id(); }
inline uint simdgroups_per_threadgroup() { return count(g.size, 32); }
inline uint dispatch_simdgroups_per_threadgroup() { return count(g.dispatched, 32); }
inline uint threads_per_simdgroup() { return 32; }
inline uint thread_execution_width() { return 32; }
inline uint thread_index_in_quadgroup() { return lane_in_group() % 4; }
inline uint quadgroup_index_in_threadgroup() { return lane_in_group() / 4; }
inline uint quadgroups_per_threadgroup() { return count(g.size, 4); }
inline uint dispatch_quadgroups_per_threadgroup() { return count(g.dispatched, 4); }
}  // namespace attribute

inline bool every_output_written() {
  for (const simt::buffer& b : g.buffers) {
    if (!b.cells || b.initialised) continue;
    const std::size_t cells = b.bytes / b.unit;
    std::size_t missing = 0, first = 0;
    for (std::size_t i = cells; i-- > 0;)
      if (!b.cells[i].write.thread) ++missing, first = i;
    if (missing) {
      say("kernel '%s': output '%s': element %zu was never written (%zu of %zu were not)", m.kernel, b.name, first, missing, cells);
      return !(m.failed = true);
    }
  }
  return true;
}

// body(nullptr) for every thread of the grid, group by group; the last groups of a dimension may be smaller (dispatchThreads)
inline bool run(const launch& l, void (*body)(void*)) {
  begin_launch(l.kernel);
  simt::arena.group_number = 0;  // else a launch of one group takes the last one's declarations for its own
  g = grid_state{};
  for (unsigned i = 0; i < l.buffers; ++i) {
    const given_buffer& from = l.buffer[i];
    simt::buffer& b = g.buffers[i];
    b.name = from.name;
    b.base = from.base;
    b.bytes = from.bytes;
    b.writable = from.writable;
    b.initialised = from.initialised;
    b.race_checked = !from.atomic;
    if (b.writable) b.watch(from.item_bytes);
  }
  for (unsigned d = 0; d < 3; ++d) {
    g.grid[d] = l.grid[d];
    g.dispatched[d] = l.group[d] < l.grid[d] ? l.group[d] : l.grid[d];
    g.groups[d] = (g.grid[d] + g.dispatched[d] - 1) / g.dispatched[d];
  }
  bool good = true;
  for (g.group[2] = 0; good && g.group[2] < g.groups[2]; ++g.group[2])
    for (g.group[1] = 0; good && g.group[1] < g.groups[1]; ++g.group[1])
      for (g.group[0] = 0; good && g.group[0] < g.groups[0]; ++g.group[0]) {
        for (unsigned d = 0; d < 3; ++d) {
          const std::uint32_t left = g.grid[d] - g.group[d] * g.dispatched[d];
          g.size[d] = left < g.dispatched[d] ? left : g.dispatched[d];
          m.group[d] = g.group[d];
        }
        good = run_group(g.size[0] * g.size[1] * g.size[2], body, nullptr);
      }
  good = good && every_output_written();
  for (simt::buffer& b : g.buffers) std::free(b.cells);
  return good;
}

// What MLX's own text in front of a kernel defines beside the language.
template <class T, class U>
T ceildiv(T n, U m) {
  return (n + m - 1) / m;
}
template <class I = int64_t>
I elem_to_loc(I elem, pointer<constant, const int> shape, pointer<constant, const int64_t> strides, int ndim) {
  I at = 0;
  for (int i = ndim - 1; i >= 0 && elem > 0; --i) {
    at += (elem % shape[i]) * I(strides[i]);
    elem /= shape[i];
  }
  return at;
}
inline int64_t elem_to_loc(uint elem, pointer<constant, const int> shape, pointer<constant, const int64_t> strides, int ndim) {
  return elem_to_loc<int64_t>(int64_t(elem), shape, strides, ndim);
}

}  // namespace msl

namespace metal = msl;
