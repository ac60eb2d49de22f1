// The functions that include/cuda.h declares, and the launch. Compiled once, without the sanitizers' calls, and linked into
// every kernel's library.
#include "warp.h"

namespace cuda {

struct uint3 {
  unsigned x, y, z;
};

struct launch_state {
  uint3 block, grid, blocks_at, threads[simt::max_lanes];
  void (*entry)(void* const*);
  void* const* arguments;
};
inline launch_state launch;

struct copy {
  char* to;
  const char* from;  // null: zeros
  std::size_t bytes;
};
struct pending_copies {
  copy copies[64];
  unsigned group[64], count, groups;
};
inline pending_copies pending[simt::max_lanes];

inline char* shared_pointer(unsigned address, const void* at) {
  if (address >= sizeof simt::arena.memory) fail(place(at), "%#x is not an address in shared memory", address);
  return simt::arena.memory + address;
}

inline void finish_copies(unsigned keep) {
  pending_copies& p = pending[m.running];
  unsigned done = 0;
  while (done < p.count && p.group[done] + keep < p.groups) {
    const copy& c = p.copies[done++];
    c.from ? std::memcpy(c.to, c.from, c.bytes) : std::memset(c.to, 0, c.bytes);
    access(c.to, c.bytes, true, space::shared);
  }
  for (unsigned i = done; i < p.count; ++i) p.copies[i - done] = p.copies[i], p.group[i - done] = p.group[i];
  p.count -= done;
}

}  // namespace cuda

using namespace cuda;

extern "C" {

uint3 simt_thread_idx() { return launch.threads[m.running]; }
uint3 simt_block_idx() { return launch.blocks_at; }
uint3 simt_block_dim() { return launch.block; }
uint3 simt_grid_dim() { return launch.grid; }

static const char* misplaced;  // a shared variable met while the library was loaded

void* simt_static_shared(int* slot, const char* name, std::size_t bytes, std::size_t align, std::size_t asked) {
  if (!m.inside) {
    misplaced = name;
    return simt::arena.memory;
  }
  const unsigned id = unsigned(reinterpret_cast<std::uintptr_t>(slot) >> 2) | 1;
  return simt::shared(id, name, bytes, align > asked ? align : asked, bytes < 4 || bytes % 4 ? 1 : 4)->base;
}

void* simt_dynamic_shared(std::size_t align, std::size_t asked) {
  if (!memory.dynamic_bytes) fail({}, "extern __shared__ memory, but the kernel was made with shared_memory=0");
  return simt::shared(0, "extern __shared__", memory.dynamic_bytes, align > asked ? align : asked, 1)->base;
}

unsigned simt_shared_address(const void* pointer, const void* at) {
  const std::size_t offset = static_cast<const char*>(pointer) - simt::arena.memory;
  if (offset >= sizeof simt::arena.memory) fail(place(at), "__cvta_generic_to_shared of a pointer that is not to shared memory");
  return unsigned(offset);
}

void* simt_shared_pointer(unsigned address, const void* at) { return shared_pointer(address, at); }

void simt_check(const void* pointer, std::size_t bytes, int write, int where, const void* at) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes) fail(place(at), "misaligned access of %zu bytes", bytes);
  access(pointer, bytes, write, space(where), at);
}

void simt_syncthreads(const void* at) { simt::barrier("__syncthreads", place(at)); }
unsigned simt_syncthreads_vote(int kind, int predicate, const void* at) {
  static unsigned count[4], of[4];  // in turn: the first lane of the next vote may come before the last has read this one
  const unsigned now = m.shared_epoch % 4;
  if (of[now] != m.shared_epoch) count[now] = 0, of[now] = m.shared_epoch;
  count[now] += predicate != 0;
  simt::barrier("__syncthreads_count", place(at));
  const unsigned total = count[now];
  return kind == 0 ? total : kind == 1 ? total == m.lanes - m.done : total != 0;
}
void simt_syncwarp(unsigned mask, const void* at) { simt::warp_barrier("__syncwarp", place(at), mask); }
u64 simt_shfl(int kind, unsigned mask, u64 value, int argument, int width, const void* at) { return shuffle(kind, mask, value, argument, width, at); }
unsigned simt_vote(int kind, unsigned mask, int predicate, const void* at) { return vote(kind, mask, predicate != 0, at); }
unsigned simt_match(unsigned mask, u64 value, const void* at) { return match(mask, value, at); }
unsigned simt_reduce(int kind, unsigned mask, unsigned value, const void* at) { return reduce(kind, mask, value, at); }

fragment simt_mma(int type, fragments in, const void* at) {
  need_full_warp("mma", at);
  return rendezvous<fragment>(type ? "mma (f16)" : "mma (bf16)", place(at), simt::full_mask, in, [&](const fragments* ins, fragment* outs, unsigned) {
    type ? mma<simt::half_format>(ins, outs) : mma<simt::bfloat_format>(ins, outs);
  });
}

void simt_ldmatrix(unsigned* words, int count, int transpose, unsigned address, const void* at) {
  ldmatrix(words, count, transpose, shared_pointer(address, at), at);
}

void simt_cp_async(unsigned shared, const void* global, int bytes, int source_bytes, const void* at) {
  pending_copies& p = pending[m.running];
  if (bytes != 4 && bytes != 8 && bytes != 16) fail(place(at), "cp.async of %d bytes", bytes);
  if (p.count == 64) fail(place(at), "more than 64 copies of one thread under way");
  if (reinterpret_cast<std::uintptr_t>(global) % bytes || shared % bytes) fail(place(at), "cp.async: misaligned");
  if (source_bytes != 0 && source_bytes != bytes) fail(place(at), "cp.async: a source size between 0 and %d is not emulated", bytes);
  if (source_bytes) access(global, bytes, false, space::global, at);
  p.group[p.count] = p.groups;
  p.copies[p.count++] = {shared_pointer(shared, at), source_bytes ? static_cast<const char*>(global) : nullptr, std::size_t(bytes)};
}
void simt_cp_async_commit() { ++pending[m.running].groups; }
void simt_cp_async_wait(int keep) { finish_copies(unsigned(keep)); }

// kind 0: integer add, 1: f32 add, 2: f64 add, 3: exchange, 4: compare and swap
u64 simt_atomic(int kind, void* pointer, std::size_t bytes, u64 value, u64 expected, const void* at) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes) fail(place(at), "misaligned atomic");
  if (simt::buffer* b = find(static_cast<char*>(pointer))) b->race_checked = false;
  access(pointer, bytes, false, space::any, at);
  access(pointer, bytes, true, space::any, at);
  u64 old = 0;
  std::memcpy(&old, pointer, bytes);
  u64 result = kind == 0 ? old + value : kind == 4 && old != expected ? old : value;
  if (kind == 1) result = simt::float_bits(simt::bits_float(unsigned(old)) + simt::bits_float(unsigned(value)));
  if (kind == 2) result = __builtin_bit_cast(u64, __builtin_bit_cast(double, old) + __builtin_bit_cast(double, value));
  std::memcpy(pointer, &result, bytes);
  return old;
}

void simt_trap(const char* what, const void* at) { fail(place(at), "%s", what); }

// A buffer as Python gives it: an input's content, or an output's place and, where `initialised`, its first content.
struct simt_buffer {
  char* data;
  std::size_t bytes, offset;  // offset: how far from a multiple of 256 its address is
  const char* name;
  int output, initialised, unit;
  std::size_t unwritten, first_unwritten;  // out: bytes
};

// 0, or 1 with simt_error's text. arguments[i]: where argument i lies; those in `slots` are pointers to the buffers.
int simt_launch(void (*entry)(void* const*), void** arguments, const char* name, simt_buffer* buffers, void** slots, int count,
                const unsigned* blocks, const unsigned* threads, std::size_t dynamic_bytes) {
  simt::begin_launch(name);
  if (misplaced) {
    simt::say("kernel '%s': the shared variable '%s' outside of a function is not emulated", name, misplaced);
    return 1;
  }
  std::size_t total = buffer_gap;
  for (int i = 0; i < count; ++i) total += (buffers[i].bytes + 256 + buffer_gap + 255) / 256 * 256;
  char* whole = static_cast<char*>(mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  m.exit_releases_barrier = true;
  const std::size_t limit_before = simt::arena.limit;
  memory.count = count;
  memory.dynamic_bytes = dynamic_bytes;
  simt::arena.gap = 256;
  simt::arena.group_number = 0;
  simt::arena.limit = dynamic_bytes ? dynamic_limit : static_limit;
  find_image(reinterpret_cast<void*>(entry));
  launch.block = {threads[0], threads[1], threads[2]};
  launch.grid = {blocks[0], blocks[1], blocks[2]};
  launch.entry = entry;
  launch.arguments = arguments;
  char* next = whole + buffer_gap;
  for (int i = 0; i < count; ++i) {
    simt_buffer& given = buffers[i];
    simt::buffer& b = memory.buffers[i];
    b = {};
    b.name = given.name;
    b.base = given.bytes ? next + given.offset : nullptr;
    b.bytes = given.bytes;
    b.writable = given.output;
    b.initialised = !given.output || given.initialised;
    if (given.output) b.watch(given.unit);
    if (b.initialised) std::memcpy(b.base, given.data, given.bytes);
    else std::memset(b.base, 0xff, given.bytes);
    *static_cast<char**>(slots[i]) = b.base;
    next += (given.bytes + 256 + buffer_gap + 255) / 256 * 256;
  }
  const unsigned lanes_of_block = threads[0] * threads[1] * threads[2];
  for (unsigned i = 0; i < lanes_of_block; ++i) launch.threads[i] = {i % threads[0], i / threads[0] % threads[1], i / threads[0] / threads[1]};
  bool good = true;
  for (unsigned z = 0; z < blocks[2] && good; ++z)
    for (unsigned y = 0; y < blocks[1] && good; ++y)
      for (unsigned x = 0; x < blocks[0] && good; ++x) {
        launch.blocks_at = {x, y, z};
        m.group[0] = x, m.group[1] = y, m.group[2] = z;
        for (unsigned i = 0; i < lanes_of_block; ++i) pending[i].count = pending[i].groups = 0;
        good = simt::run_group(lanes_of_block, [](void*) { launch.entry(launch.arguments); }, nullptr);
      }
  for (int i = 0; i < count; ++i) {
    simt::buffer& b = memory.buffers[i];
    if (!b.cells) continue;
    std::memcpy(buffers[i].data, b.base, b.bytes);
    for (std::size_t cell = b.bytes / b.unit; cell-- > 0;)
      if (!b.cells[cell].write.thread) {
        buffers[i].unwritten += b.unit;
        buffers[i].first_unwritten = cell * b.unit;
      }
    std::free(b.cells);
    b.cells = nullptr;
  }
  munmap(whole, total);
  // The core's state is one for all libraries of a process, those of other shims too.
  m.exit_releases_barrier = false;
  simt::arena.gap = 0;
  simt::arena.limit = limit_before;
  return !good;
}
}
