// CUDA C++ as the emulator gives it to a kernel: qualifiers, builtin variables, vector types, intrinsics. No C++ standard
// header is included, since NVRTC has none either. What needs other lanes or memory is a call into the runtime.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __CUDA_ARCH__ 800
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define MAX_NDIM 10
#define WARP_SIZE 32

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long;
using size_t = unsigned long;
using ptrdiff_t = long;
using intptr_t = long;
using uintptr_t = unsigned long;
using uint = unsigned int;
using ushort = unsigned short;
using uchar = unsigned char;

template <class T>
using simt_t = T;

namespace std {  // what __builtin_source_location() points at
struct source_location {
  struct __impl {
    const char* _M_file_name;
    const char* _M_function_name;
    unsigned _M_line, _M_column;
  };
};
}  // namespace std
using simt_site = const void*;

#include "vectors.h"

// ---- the runtime ----------------------------------------------------------------------------------------------------

struct simt_dim3 {
  unsigned x, y, z;
};
struct simt_fragments {
  unsigned a[4], b[2];
  float c[4];
};
struct simt_fragment {
  float d[4];
};

extern "C" {
uint3 simt_thread_idx() __attribute__((const));
uint3 simt_block_idx() __attribute__((const));
simt_dim3 simt_block_dim() __attribute__((const));
simt_dim3 simt_grid_dim() __attribute__((const));
void* simt_static_shared(int* slot, const char* name, size_t bytes, size_t align, size_t asked_align);
void* simt_dynamic_shared(size_t align, size_t asked_align);
unsigned simt_shared_address(const void* pointer, simt_site line);
void* simt_shared_pointer(unsigned address, simt_site line);
void simt_check(const void* pointer, size_t bytes, int write, int space, simt_site line);
void simt_syncthreads(simt_site line);
unsigned simt_syncthreads_vote(int kind, int predicate, simt_site line);
void simt_syncwarp(unsigned mask, simt_site line);
unsigned long simt_shfl(int kind, unsigned mask, unsigned long value, int argument, int width, simt_site line);
unsigned simt_vote(int kind, unsigned mask, int predicate, simt_site line);
unsigned simt_match(unsigned mask, unsigned long value, simt_site line);
unsigned simt_reduce(int kind, unsigned mask, unsigned value, simt_site line);
unsigned long simt_atomic(int kind, void* pointer, size_t bytes, unsigned long value, unsigned long other, simt_site line);
simt_fragment simt_mma(int type, simt_fragments in, simt_site line);
void simt_ldmatrix(unsigned* out, int count, int transpose, unsigned address, simt_site line);
void simt_cp_async(unsigned shared, const void* global, int bytes, int source_bytes, simt_site line);
void simt_cp_async_commit();
void simt_cp_async_wait(int groups);
[[noreturn]] void simt_trap(const char* what, simt_site line);
}

#define threadIdx (simt_thread_idx())
#define blockIdx (simt_block_idx())
#define blockDim (simt_block_dim())
#define gridDim (simt_grid_dim())
constexpr int warpSize = 32;

// Where a call stands in the kernel's text: its default value is the caller's place.
#define SIMT_LINE simt_site line = __builtin_source_location()
#define assert(condition) ((condition) ? (void)0 : simt_trap("assert(" #condition ")", __builtin_source_location()))
inline void __trap(SIMT_LINE) { simt_trap("__trap", line); }

// ---- barriers, votes, shuffles --------------------------------------------------------------------------------------

inline void __syncthreads(SIMT_LINE) { simt_syncthreads(line); }
inline int __syncthreads_count(int predicate, SIMT_LINE) { return simt_syncthreads_vote(0, predicate, line); }
inline int __syncthreads_and(int predicate, SIMT_LINE) { return simt_syncthreads_vote(1, predicate, line); }
inline int __syncthreads_or(int predicate, SIMT_LINE) { return simt_syncthreads_vote(2, predicate, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_LINE) { simt_syncwarp(mask, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_LINE) { return simt_vote(0, mask, predicate, line); }
inline int __all_sync(unsigned mask, int predicate, SIMT_LINE) { return simt_vote(1, mask, predicate, line); }
inline int __any_sync(unsigned mask, int predicate, SIMT_LINE) { return simt_vote(2, mask, predicate, line); }

template <class T>
inline unsigned long simt_bits(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "a shuffle moves 2, 4 or 8 bytes");
  if constexpr (sizeof(T) == 2) return __builtin_bit_cast(unsigned short, value);
  else if constexpr (sizeof(T) == 4) return __builtin_bit_cast(unsigned, value);
  else return __builtin_bit_cast(unsigned long, value);
}

template <class T>
inline T simt_from_bits(unsigned long bits) {
  if constexpr (sizeof(T) == 2) return __builtin_bit_cast(T, static_cast<unsigned short>(bits));
  else if constexpr (sizeof(T) == 4) return __builtin_bit_cast(T, static_cast<unsigned>(bits));
  else return __builtin_bit_cast(T, bits);
}

struct __half;
struct __half2;
struct __nv_bfloat16;
struct __nv_bfloat162;
template <class T>
struct simt_shuffles {
  static constexpr bool value = false;
};
#define SIMT_SHUFFLES(T) \
  template <>            \
  struct simt_shuffles<T> { static constexpr bool value = true; };
SIMT_SHUFFLES(int)
SIMT_SHUFFLES(unsigned)
SIMT_SHUFFLES(long)
SIMT_SHUFFLES(unsigned long)
SIMT_SHUFFLES(long long)
SIMT_SHUFFLES(unsigned long long)
SIMT_SHUFFLES(float)
SIMT_SHUFFLES(double)
SIMT_SHUFFLES(__half)
SIMT_SHUFFLES(__half2)
SIMT_SHUFFLES(__nv_bfloat16)
SIMT_SHUFFLES(__nv_bfloat162)

#define SIMT_SHFL(name, kind, argument)                                                       \
  template <class T>                                                                          \
  inline T name(unsigned mask, T value, argument, int width = 32, SIMT_LINE) {                \
    static_assert(simt_shuffles<T>::value, #name " takes no value of this type");             \
    return simt_from_bits<T>(simt_shfl(kind, mask, simt_bits(value), where, width, line));    \
  }
SIMT_SHFL(__shfl_sync, 0, int where)
SIMT_SHFL(__shfl_up_sync, 1, unsigned where)
SIMT_SHFL(__shfl_down_sync, 2, unsigned where)
SIMT_SHFL(__shfl_xor_sync, 3, int where)

template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, SIMT_LINE) {
  return simt_match(mask, simt_bits(value), line);
}
#define SIMT_REDUCE(name, kind, T) \
  inline T name(unsigned mask, T value, SIMT_LINE) { return static_cast<T>(simt_reduce(kind, mask, value, line)); }
SIMT_REDUCE(__reduce_add_sync, 0, unsigned)
SIMT_REDUCE(__reduce_add_sync, 0, int)
SIMT_REDUCE(__reduce_min_sync, 1, unsigned)
SIMT_REDUCE(__reduce_min_sync, 2, int)
SIMT_REDUCE(__reduce_max_sync, 3, unsigned)
SIMT_REDUCE(__reduce_max_sync, 4, int)
SIMT_REDUCE(__reduce_and_sync, 5, unsigned)
SIMT_REDUCE(__reduce_or_sync, 6, unsigned)
SIMT_REDUCE(__reduce_xor_sync, 7, unsigned)

// ---- memory ---------------------------------------------------------------------------------------------------------

enum simt_space { simt_global = 1, simt_read_only = 3 };  // read_only: global memory that this launch does not write
#define SIMT_LOAD(name, space)                          \
  template <class T>                                    \
  inline T name(const T* pointer, SIMT_LINE) {          \
    simt_check(pointer, sizeof(T), 0, space, line);     \
    return *pointer;                                    \
  }
SIMT_LOAD(__ldg, simt_read_only)
SIMT_LOAD(__ldca, simt_global)
SIMT_LOAD(__ldcg, simt_global)
SIMT_LOAD(__ldcs, simt_global)
SIMT_LOAD(__ldlu, simt_global)
#define SIMT_STORE(name)                                \
  template <class T>                                    \
  inline void name(T* pointer, T value, SIMT_LINE) {    \
    simt_check(pointer, sizeof(T), 1, simt_global, line); \
    *pointer = value;                                   \
  }
SIMT_STORE(__stcg)
SIMT_STORE(__stcs)
SIMT_STORE(__stwb)
inline size_t __cvta_generic_to_shared(const void* pointer, SIMT_LINE) { return simt_shared_address(pointer, line); }

template <class T>
inline T atomicAdd(T* pointer, T value, SIMT_LINE) {
  constexpr int kind = __is_same(T, float) ? 1 : __is_same(T, double) ? 2 : 0;
  return simt_from_bits<T>(simt_atomic(kind, pointer, sizeof(T), simt_bits(value), 0, line));
}
template <class T>
inline T atomicExch(T* pointer, T value, SIMT_LINE) {
  return simt_from_bits<T>(simt_atomic(3, pointer, sizeof(T), simt_bits(value), 0, line));
}
template <class T>
inline T atomicCAS(T* pointer, T expected, T value, SIMT_LINE) {
  return simt_from_bits<T>(simt_atomic(4, pointer, sizeof(T), simt_bits(value), simt_bits(expected), line));
}

#include "integers.h"

#include "standard.h"

#include "cuda_fp16.h"

#include "cuda_bf16.h"

#include "ptx.h"
