// Checked memory: bounds, alignment, reads of what nobody wrote, and data races.
// An access remembers who made it and in which epochs; two by different lanes, one of them a write, must be ordered by a
// barrier between them (of the group, or of the simdgroup if both are in it). Nothing depends on luck in the order of lanes.
#pragma once
#include <cstdlib>

#include "simt.h"

namespace simt {

struct access {
  std::uint32_t thread = 0;  // 1 + number in the launch; 0: none
  std::uint32_t epoch = 0, warp_epoch = 0;
};

struct cell {  // two readers are enough: if any reader is unordered with a later write, one of the two kept is
  access write, read[2];
};

struct buffer {
  const char* name = "?";
  char* base = nullptr;
  std::size_t bytes = 0;
  bool writable = false, shared = false;
  bool initialised = true;   // false: reading an element that was not written is an error
  bool race_checked = true;  // false: atomics are used on it
  std::uint32_t unit = 4;    // bytes that a cell stands for
  cell* cells = nullptr;     // nullptr: nobody may write, nothing to remember

  void watch(std::uint32_t bytes_per_cell) {
    unit = bytes_per_cell;
    std::free(cells);
    cells = static_cast<cell*>(std::calloc(bytes / unit + 1, sizeof(cell)));
  }
  // Elements of `size` bytes are used from now on: cells must not be larger than them.
  void refine(std::uint32_t size) {
    if (!cells || size >= unit) return;
    const std::uint32_t parts = unit / size;
    cell* fine = static_cast<cell*>(std::calloc(bytes / size + 1, sizeof(cell)));
    for (std::size_t i = 0; i < bytes / unit; ++i)
      for (std::uint32_t j = 0; j < parts; ++j) fine[i * parts + j] = cells[i];
    std::free(cells);
    cells = fine;
    unit = size;
  }
};

inline access now(const buffer& b) {
  return {m.group_number * max_lanes + m.running + 1, b.shared ? m.shared_epoch : m.device_epoch, m.warp[warp_id()].epoch};
}

inline bool ordered(const buffer& b, const access& before, const access& after) {
  if (!before.thread || before.thread == after.thread) return true;
  const std::uint32_t a = before.thread - 1, c = after.thread - 1;
  if (a / max_lanes != c / max_lanes) return b.shared;  // another group: its shared memory is gone
  return before.epoch < after.epoch || (b.shared && a / warp_lanes == c / warp_lanes && before.warp_epoch < after.warp_epoch);
}

[[noreturn]] __attribute__((cold, noinline)) inline void out_of_bounds(const buffer* b, const void* p, std::size_t n,
                                                                       bool write) {
  say_who();
  const char* verb = write ? "write" : "read";
  if (!b) {
    say(": %s through a null pointer", verb);
  } else {
    const std::ptrdiff_t offset = static_cast<const char*>(p) - b->base;
    if (offset < 0 || offset + n > b->bytes)
      say(": out-of-bounds %s of element %td of '%s' (%zu elements of %zu bytes)", verb,
          offset >= 0 ? std::ptrdiff_t(offset / n) : -std::ptrdiff_t((n - 1 - offset) / n), b->name, b->bytes / n, n);
    else
      say(": misaligned %s of %zu bytes at byte %td of '%s'", verb, n, offset, b->name);
  }
  stop();
}

[[noreturn]] __attribute__((cold, noinline)) inline void race(const buffer* b, std::size_t index, const access& before,
                                                              bool before_write, bool write) {
  const std::uint32_t other = before.thread - 1;
  say_who();
  say(": data race on '%s', byte %zu: %s here, %s before by thread %u", b->name, index * b->unit, write ? "written" : "read",
      before_write ? "written" : "read", other % max_lanes);
  if (other / max_lanes != m.group_number) say(" of another group");
  say(", with no barrier between");
  stop();
}

[[noreturn]] __attribute__((cold, noinline)) inline void unwritten(const buffer* b, std::size_t offset) {
  say_who();
  say(": read of byte %zu of '%s', which nobody has written (yet: is a barrier missing?)", offset, b->name);
  stop();
}

__attribute__((noinline)) inline void record_read(const buffer* b, const void* p, std::size_t n) {
  const std::size_t first = (static_cast<const char*>(p) - b->base) / b->unit;
  const std::size_t last = (static_cast<const char*>(p) - b->base + n - 1) / b->unit;
  const access self = now(*b);
  for (std::size_t i = first; i <= last; ++i) {
    cell& c = b->cells[i];
    if (!b->initialised && (b->shared ? c.write.epoch < m.group_epoch : !c.write.thread))
      unwritten(b, i * b->unit);
    if (!b->race_checked) continue;
    if (!ordered(*b, c.write, self)) race(b, i, c.write, true, false);
    access &r0 = c.read[0], &r1 = c.read[1];
    if (ordered(*b, r0, self))
      r0 = self;
    else if (ordered(*b, r1, self) || (r0.thread - 1) / warp_lanes == (r1.thread - 1) / warp_lanes)
      r1 = self;
  }
}

__attribute__((noinline)) inline void record_write(const buffer* b, const void* p, std::size_t n) {
  const std::size_t first = (static_cast<const char*>(p) - b->base) / b->unit;
  const std::size_t last = (static_cast<const char*>(p) - b->base + n - 1) / b->unit;
  const access self = now(*b);
  for (std::size_t i = first; i <= last; ++i) {
    cell& c = b->cells[i];
    if (b->race_checked) {
      if (!ordered(*b, c.write, self)) race(b, i, c.write, true, true);
      for (const access& reader : c.read)
        if (!ordered(*b, reader, self)) race(b, i, reader, false, true);
    }
    c.write = self;
  }
}

inline bool inside(const buffer* b, const void* p, std::size_t n, std::size_t alignment) {
  const std::size_t offset = static_cast<const char*>(p) - b->base;
  return offset <= b->bytes && n <= b->bytes - offset && reinterpret_cast<std::uintptr_t>(p) % alignment == 0;
}

__attribute__((always_inline)) inline void check_read(const buffer* b, const void* p, std::size_t n, std::size_t alignment) {
  if (__builtin_expect(!b || !inside(b, p, n, alignment), 0)) out_of_bounds(b, p, n, false);
  if (b->cells) record_read(b, p, n);
}

__attribute__((always_inline)) inline void check_write(const buffer* b, const void* p, std::size_t n, std::size_t alignment) {
  if (__builtin_expect(!b || !inside(b, p, n, alignment), 0)) out_of_bounds(b, p, n, true);
  if (b->cells) record_write(b, p, n);
}

// Threadgroup (shared) memory: declarations of a group, told apart by `id`.
struct shared_arena {
  static constexpr std::size_t capacity = 256 * 1024;
  static constexpr unsigned most = 64;
  std::size_t limit = 32 * 1024, used = 0;
  std::size_t gap = 0;  // bytes left free behind each, where an address alone must tell which it is in
  std::uint32_t group_number = 0;
  unsigned count = 0, id[most];
  buffer declared[most];
  alignas(256) char memory[capacity];
};
inline shared_arena arena;

// The same memory for every lane of the group; all ones (NaN), and unwritten, at the group's start.
inline buffer* shared(unsigned id, const char* name, std::size_t bytes, std::size_t alignment, std::uint32_t unit) {
  if (arena.group_number != m.group_number) {
    arena.group_number = m.group_number;
    arena.used = arena.count = 0;
  }
  for (unsigned i = 0; i < arena.count; ++i)
    if (arena.id[i] == id) return &arena.declared[i];
  if (alignment < 16) alignment = 16;
  const std::size_t offset = (arena.used + alignment - 1) / alignment * alignment;
  arena.used = offset + bytes + arena.gap;
  if (arena.count == shared_arena::most) fail({}, "more than %u declarations of shared memory", shared_arena::most);
  const std::size_t total = arena.used - (arena.count + 1) * arena.gap;
  if (total > arena.limit || arena.used > shared_arena::capacity)
    fail({}, "%zu bytes of threadgroup memory with '%s', more than the limit of %zu", total, name, arena.limit);
  const unsigned i = arena.count++;
  buffer& b = arena.declared[i];
  const bool fits = b.cells && arena.id[i] == id && b.bytes == bytes && b.unit <= unit;
  arena.id[i] = id;
  b.name = name;
  b.base = arena.memory + offset;
  b.bytes = bytes;
  b.writable = b.shared = true;
  b.initialised = false;
  if (!fits) b.watch(unit);  // else the cells are as old as the groups before: their epochs say so
  std::memset(b.base, 0xff, bytes);
  return &b;
}

}  // namespace simt
