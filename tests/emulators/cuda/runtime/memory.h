// Every load and store of a kernel comes here (g++'s thread sanitizer makes the calls) and is looked up by its address:
// a buffer, a shared variable, the lane's own stack, or a mistake. What was done to it is simt's `buffer` to judge.
#pragma once
#include <link.h>
#include <sys/mman.h>

#include "../../simt/entry.h"

namespace cuda {

using simt::fail;
using simt::m;
using simt::site;

constexpr std::size_t static_limit = 48 * 1024, dynamic_limit = 227 * 1024;
constexpr std::size_t buffer_gap = 1 << 20;  // an index wrong by less than this cannot meet another buffer
constexpr std::size_t most_buffers = 64;

struct memory_state {
  simt::buffer buffers[most_buffers];
  std::size_t count = 0, dynamic_bytes = 0;
  const char *image_begin = nullptr, *image_end = nullptr;
};
inline memory_state memory;

inline site place(const void* at) { return {static_cast<const std::source_location::__impl*>(at)}; }

// Ends the launch: `what` of an access at `at`, or where the caller's frames tell if that is null.
[[noreturn]] __attribute__((cold, noinline)) inline void wrong(const char* address, std::size_t bytes, bool write, const void* at) {
  const char* verb = write ? "write" : "read";
  const simt::buffer* near = nullptr;
  if (std::size_t(address - simt::arena.memory) < sizeof simt::arena.memory) {
    for (unsigned i = 0; i < simt::arena.count; ++i)
      if (simt::arena.declared[i].base <= address) near = &simt::arena.declared[i];
    if (!near && simt::arena.count) near = &simt::arena.declared[0];
  } else {
    for (std::size_t i = 0; i < memory.count; ++i) {
      const simt::buffer& b = memory.buffers[i];
      if (b.base && address + buffer_gap / 2 >= b.base && address < b.base + b.bytes + buffer_gap / 2) near = &b;
    }
  }
  if (!address) fail(place(at), "%s through a null pointer (an input without elements is one)", verb);
  if (near) fail(place(at), "out-of-bounds %s of %zu bytes at byte %td of '%s', which has %zu", verb, bytes, address - near->base, near->name, near->bytes);
  for (unsigned i = 0; i < m.lanes; ++i)
    if (m.lane[i].stack && std::size_t(address - m.lane[i].stack) < simt::stack_bytes) fail(place(at), "%s of a local variable of thread %u", verb, i);
  fail(place(at), "out-of-bounds %s of %zu bytes, far from every buffer", verb, bytes);
}

enum class space { any, global, shared, read_only };

inline simt::buffer* find(const char* address) {
  if (std::size_t(address - simt::arena.memory) < sizeof simt::arena.memory) {
    for (unsigned i = 0; i < simt::arena.count; ++i)
      if (std::size_t(address - simt::arena.declared[i].base) < simt::arena.declared[i].bytes) return &simt::arena.declared[i];
    return nullptr;
  }
  for (std::size_t i = 0; i < memory.count; ++i)
    if (std::size_t(address - memory.buffers[i].base) < memory.buffers[i].bytes) return &memory.buffers[i];
  return nullptr;
}

inline void access(const void* pointer, std::size_t bytes, bool write, space where = space::any, const void* at = nullptr) {
  if (!m.inside) return;  // while the library is loaded
  const char* address = static_cast<const char*>(pointer);
  if (std::size_t(address - m.lane[m.running].stack) < simt::stack_bytes) {
    if (where != space::any) fail(place(at), "the address of a local variable where one of %s memory is needed", where == space::shared ? "shared" : "global");
    return;
  }
  simt::buffer* b = find(address);
  if (!b) {
    if (address < memory.image_begin || address >= memory.image_end) wrong(address, bytes, write, at);
    if (write) fail(place(at), "write to a global variable");
    return;
  }
  if (!simt::inside(b, pointer, bytes, 1)) wrong(address, bytes, write, at);
  if (where != space::any && b->shared != (where == space::shared))
    fail(place(at), "'%s' is %s memory, which this instruction does not take", b->name, b->shared ? "shared" : "global");
  if (where == space::read_only && b->cells) fail(place(at), "read of '%s' by an instruction for memory that the launch does not write", b->name);
  if (!b->cells) {
    if (write) fail(place(at), "write to the input '%s'", b->name);
    return;
  }
  if (bytes < b->unit) b->refine(bytes);
  write ? simt::record_write(b, pointer, bytes) : simt::record_read(b, pointer, bytes);
}

// The image that holds `inside`: string literals and constant tables of the kernel.
inline void find_image(const void* inside) {
  struct range {
    std::uintptr_t wanted, begin, end;
  } found{reinterpret_cast<std::uintptr_t>(inside), 0, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        range& r = *static_cast<range*>(data);
        std::uintptr_t begin = ~std::uintptr_t(0), end = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
          const std::uintptr_t first = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
          if (first < begin) begin = first;
          if (first + info->dlpi_phdr[i].p_memsz > end) end = first + info->dlpi_phdr[i].p_memsz;
        }
        if (r.wanted < begin || r.wanted >= end) return 0;
        r.begin = begin;
        r.end = end;
        return 1;
      },
      &found);
  memory.image_begin = reinterpret_cast<const char*>(found.begin);
  memory.image_end = reinterpret_cast<const char*>(found.end);
}

}  // namespace cuda

#define SIMT_ACCESS(name, bytes, write) \
  void name(void* address) { cuda::access(address, bytes, write); }
#define SIMT_ACCESSES(bytes)                               \
  SIMT_ACCESS(__tsan_read##bytes, bytes, false)            \
  SIMT_ACCESS(__tsan_write##bytes, bytes, true)            \
  SIMT_ACCESS(__tsan_unaligned_read##bytes, bytes, false)  \
  SIMT_ACCESS(__tsan_unaligned_write##bytes, bytes, true)
extern "C" {
void __tsan_init() {}
SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)
void __tsan_read_range(void* address, long bytes) { cuda::access(address, bytes, false); }
void __tsan_write_range(void* address, long bytes) { cuda::access(address, bytes, true); }

// What g++'s undefined-behaviour sanitizer calls; the first argument begins with the place.
[[noreturn]] __attribute__((cold)) static void simt_undefined(void* at, const char* what, void* value) {
  struct simt_place {
    const char* file;
    unsigned line, column;
  };
  const simt_place* place = static_cast<const simt_place*>(at);
  static std::source_location::__impl here;
  here = {place->file, "", place->line, place->column};
  simt::fail(cuda::place(&here), "%s %ld", what, reinterpret_cast<long>(value));
}
void __ubsan_handle_type_mismatch_v1(void* at, void* address) {
  simt_undefined(at, "misaligned access; its address modulo 16 is", reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(address) % 16));
}
void __ubsan_handle_out_of_bounds(void* at, void* index) { simt_undefined(at, "an array is too short for the index", index); }
void __ubsan_handle_shift_out_of_bounds(void* at, void*, void* by) { simt_undefined(at, "a type is too short for a shift by", by); }
void __ubsan_handle_divrem_overflow(void* at, void*, void* by) { simt_undefined(at, "a division is undefined by", by); }
}
