// Runs one threadgroup (block) at a time, one fiber a lane, in a fixed order: the same program gives the same result and the
// same error every time. Lanes meet in `rendezvous` (32 lanes of a simdgroup or warp) and in `barrier` (the whole group).
// A lane that returns, or that waits elsewhere, while others wait for it is an error that names kernel, sites and lanes.
#pragma once
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "fiber.h"
#include "types.h"

namespace std {  // what __builtin_source_location() points at; <source_location> needs C++20
struct source_location {
  struct __impl {
    const char* _M_file_name;
    const char* _M_function_name;
    unsigned _M_line, _M_column;
  };
};
}  // namespace std

namespace simt {

constexpr unsigned warp_lanes = 32, max_lanes = 1024, max_warps = max_lanes / warp_lanes;
constexpr unsigned max_places = 12;
constexpr unsigned full_mask = 0xffffffffu;

// A place in the kernel's text. As a default argument, `site at = site::here()` is the caller's place.
struct site {
  const std::source_location::__impl* at = nullptr;
  static constexpr site here(const void* at = __builtin_source_location()) {
    return {static_cast<const std::source_location::__impl*>(at)};
  }
  bool operator==(site other) const {
    return at == other.at || (at && other.at && at->_M_line == other.at->_M_line && at->_M_column == other.at->_M_column &&
                              !std::strcmp(at->_M_file_name, other.at->_M_file_name));
  }
  const char* file() const { return at ? at->_M_file_name : "?"; }
  unsigned line() const { return at ? at->_M_line : 0; }
};

enum class state : unsigned char { ready, waiting, done };

// Lanes that meet: `arrived` of `mask` have deposited their value.
struct meeting {
  static constexpr std::size_t lane_bytes = 256;
  const char* kind;
  site at;
  unsigned mask = 0, arrived = 0, to_read = 0;
  std::size_t value_bytes;
  struct values* place = nullptr;
  bool free() const { return !arrived && !to_read; }
};

struct alignas(64) values {
  char in[warp_lanes * meeting::lane_bytes], out[warp_lanes * meeting::lane_bytes];
};

struct lane_state {
  fiber context;
  char* stack = nullptr;
  simt::state state;
  const char* kind;  // what it waits in
  site at;
};

struct warp_state {
  static constexpr unsigned meetings = 24;
  unsigned present = 0;  // lanes that exist: fewer than 32 in a partial group's last warp
  std::uint32_t epoch = 1;
  meeting open[meetings];
};

struct machine {
  const char* kernel = "?";
  bool exit_releases_barrier = false;  // CUDA: a barrier waits for the lanes that have not returned
  unsigned group[3] = {0, 0, 0};       // for error texts
  std::uint32_t group_number = 0;
  unsigned lanes = 0, running = 0, done = 0;
  std::uint32_t shared_epoch = 1, device_epoch = 1, group_epoch = 1;  // one up at every barrier that orders that memory
  bool failed = false, inside = false;
  char error[8192];
  std::size_t error_used = 0;
  std::uintptr_t place[max_places];
  unsigned places = 0;

  fiber main;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  unsigned barrier_arrived = 0;
  bool barrier_mixed = false;
  const char* barrier_kind;
  site barrier_at;
  unsigned queue[max_lanes], head = 0, queued = 0;
  lane_state lane[max_lanes];
  warp_state warp[max_warps];

  void push(unsigned index) {
    lane[index].state = state::ready;
    queue[(head + queued++) % max_lanes] = index;
  }
};
inline machine m;
inline values room[max_warps][warp_state::meetings];

inline unsigned lane_in_group() { return m.running; }
inline unsigned lane_id() { return m.running % warp_lanes; }
inline unsigned warp_id() { return m.running / warp_lanes; }
inline unsigned present_mask() { return m.warp[warp_id()].present; }

__attribute__((format(printf, 1, 2), cold)) inline void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int n = std::vsnprintf(m.error + m.error_used, sizeof m.error - m.error_used, format, arguments);
  va_end(arguments);
  if (n > 0) m.error_used += n;
  if (m.error_used >= sizeof m.error) m.error_used = sizeof m.error - 1;
}

__attribute__((cold)) inline void say_who() {
  say("kernel '%s', group (%u, %u, %u)", m.kernel, m.group[0], m.group[1], m.group[2]);
  if (m.inside) say(", thread %u (lane %u of simdgroup %u)", m.running, lane_id(), warp_id());
}

// Ends the launch with what was said; keeps where in this library that was, callers after it, as frame pointers tell.
[[noreturn]] __attribute__((cold, noinline)) inline void stop() {
  lane_state& lane = m.lane[m.running];
  auto inside = [&](void* p) { return p >= lane.stack && p < lane.stack + stack_bytes - 2 * sizeof(void*); };
  Dl_info info;
  void** frame = static_cast<void**>(__builtin_frame_address(0));
  while (m.places < max_places && inside(frame) && frame[1] && dladdr(frame[1], &info)) {
    m.place[m.places++] = reinterpret_cast<std::uintptr_t>(frame[1]) - reinterpret_cast<std::uintptr_t>(info.dli_fbase) - 1;
    frame = static_cast<void**>(frame[0]);
  }
  m.failed = true;
  fiber::swap(lane.context, m.main);
  __builtin_unreachable();
}

[[noreturn]] __attribute__((format(printf, 2, 3), cold, noinline)) inline void fail(site at, const char* format, ...) {
  say_who();
  say(": ");
  va_list arguments;
  va_start(arguments, format);
  m.error_used += std::vsnprintf(m.error + m.error_used, sizeof m.error - m.error_used, format, arguments);
  va_end(arguments);
  if (at.at) say(" (at %s:%u)", at.file(), at.line());
  stop();
}

// Gives the processor to the next lane that can run, or back to run_group.
inline void leave() {
  fiber& from = m.lane[m.running].context;
  if (!m.queued) {
    fiber::swap(from, m.main);
    return;
  }
  const unsigned next = m.queue[m.head];
  m.head = (m.head + 1) % max_lanes;
  --m.queued;
  m.running = next;
  fiber::swap(from, m.lane[next].context);
}

inline void wait(const char* kind, site at) {
  const unsigned self = m.running;
  m.lane[self].state = state::waiting;
  m.lane[self].kind = kind;
  m.lane[self].at = at;
  leave();
  m.running = self;
}

inline void release_barrier(bool shared, bool device) {
  m.barrier_arrived = 0;
  m.shared_epoch += shared;
  m.device_epoch += device;
  for (unsigned i = 0; i < m.lanes; ++i)
    if (m.lane[i].state == state::waiting) m.push(i);
}

inline unsigned barrier_needs() { return m.exit_releases_barrier ? m.lanes - m.done : m.lanes; }

// Every lane of the group, at one site. `shared` / `device`: which memory it orders.
inline void barrier(const char* kind, site at, bool shared = true, bool device = true) {
  if (!m.barrier_arrived) {
    m.barrier_kind = kind;
    m.barrier_at = at;
    m.barrier_mixed = false;
  } else if (!(m.barrier_at == at)) {
    m.barrier_mixed = true;
  }
  if (++m.barrier_arrived == barrier_needs() && !m.barrier_mixed) return release_barrier(shared, device);
  wait(kind, at);
}

// out[lane] for every lane of `mask`, once all of them have come to the same site with their `in`:
// compute(const In in[32], Out out[32], mask) runs once. Values of lanes outside `mask` are all ones (NaN).
template <class Out, class In, class Compute>
inline Out rendezvous(const char* kind, site at, unsigned mask, const In& in, Compute&& compute) {
  static_assert(sizeof(In) <= meeting::lane_bytes && sizeof(Out) <= meeting::lane_bytes);
  static_assert(std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  warp_state& warp = m.warp[warp_id()];
  const unsigned bit = 1u << lane_id();
  if (!(mask & bit)) fail(at, "%s with mask %08x, in which this lane is not", kind, mask);
  meeting* met = nullptr;
  for (meeting& candidate : warp.open)
    if (candidate.arrived && !(candidate.arrived & bit) && candidate.mask == mask && candidate.at == at &&
        candidate.kind == kind && candidate.value_bytes == sizeof(In))
      met = &candidate;
  if (!met) {
    for (meeting& candidate : warp.open)
      if (!met && candidate.free()) met = &candidate;
    if (!met) fail(at, "%s: lanes of this simdgroup are in more than %u different places", kind, warp_state::meetings);
    met->place = &room[warp_id()][met - warp.open];
    met->kind = kind;
    met->at = at;
    met->mask = mask;
    met->value_bytes = sizeof(In);
    std::memset(met->place->in, 0xff, warp_lanes * sizeof(In));
  }
  std::memcpy(met->place->in + lane_id() * sizeof(In), &in, sizeof(In));
  met->arrived |= bit;
  if (met->arrived == mask) {
    compute(reinterpret_cast<const In*>(met->place->in), reinterpret_cast<Out*>(met->place->out), mask);
    met->arrived = 0;
    met->to_read = mask;
    for (unsigned i = 0; i < warp_lanes; ++i)
      if ((mask >> i & 1) && i != lane_id()) m.push(warp_id() * warp_lanes + i);
  } else {
    wait(kind, at);
  }
  Out out;
  std::memcpy(&out, met->place->out + lane_id() * sizeof(Out), sizeof(Out));
  met->to_read &= ~bit;
  return out;
}

// The lanes of `mask`; orders shared memory between them.
inline void warp_barrier(const char* kind, site at, unsigned mask, bool shared = true) {
  rendezvous<char>(kind, at, mask, char(0), [&](const char*, char*, unsigned) { m.warp[warp_id()].epoch += shared; });
}

namespace detail {

inline void finish_lane() {
  m.lane[m.running].state = state::done;
  ++m.done;
  if (m.exit_releases_barrier && m.barrier_arrived && m.barrier_arrived == barrier_needs() && !m.barrier_mixed)
    release_barrier(true, true);
  leave();
  __builtin_unreachable();
}

inline void entry() {
  m.body(m.argument);
  finish_lane();
}

// "0-15, 17" for the lanes that `has` selects
template <class Has>
inline void say_lanes(Has&& has) {
  const char* comma = "";
  for (unsigned i = 0; i < m.lanes; ++i) {
    if (!has(i)) continue;
    unsigned last = i;
    while (last + 1 < m.lanes && has(last + 1)) ++last;
    last == i ? say("%s%u", comma, i) : say("%s%u-%u", comma, i, last);
    comma = ", ";
    i = last;
  }
}

__attribute__((cold)) inline void report_divergence() {
  m.inside = false;
  say_who();
  say(": divergence, lanes wait for others that never come:");
  static bool told[max_lanes];
  std::memset(told, 0, sizeof told);
  for (unsigned i = 0; i < m.lanes; ++i) {
    const lane_state& first = m.lane[i];
    if (first.state != state::waiting || told[i]) continue;
    auto same = [&](unsigned j) {
      return m.lane[j].state == state::waiting && m.lane[j].at == first.at && m.lane[j].kind == first.kind;
    };
    say("\n  %s at %s:%u:%u: threads ", first.kind, first.at.file(), first.at.line(), first.at.at ? first.at.at->_M_column : 0);
    say_lanes(same);
    for (unsigned j = i; j < m.lanes; ++j) told[j] = told[j] || same(j);
  }
  if (m.done) {
    say("\n  returned: threads ");
    say_lanes([&](unsigned j) { return m.lane[j].state == state::done; });
  }
  m.failed = true;
}

}  // namespace detail

inline void begin_launch(const char* kernel) {
  m.kernel = kernel;
  m.failed = false;
  m.error[0] = 0;
  m.error_used = m.places = 0;
  m.group_number = 0;
}

// Runs body(argument) as `lanes` lanes of one group; false: m.error says what went wrong.
inline bool run_group(unsigned lanes, void (*body)(void*), void* argument) {
  m.lanes = lanes;
  m.body = body;
  m.argument = argument;
  m.done = m.head = m.queued = m.barrier_arrived = 0;
  m.group_epoch = ++m.shared_epoch;
  ++m.device_epoch;
  ++m.group_number;
  for (unsigned i = 0; i * warp_lanes < lanes; ++i) {
    warp_state& warp = m.warp[i];
    const unsigned first = i * warp_lanes;
    warp.present = lanes - first >= warp_lanes ? full_mask : (1u << (lanes - first)) - 1;
    ++warp.epoch;
    for (meeting& open : warp.open) open.arrived = open.to_read = 0;
  }
  for (unsigned i = 0; i < lanes; ++i) {
    if (!m.lane[i].stack && !(m.lane[i].stack = new_stack())) {
      say("no memory for the lanes' stacks");
      return !(m.failed = true);
    }
    m.lane[i].context.prepare(m.lane[i].stack, detail::entry);
    m.push(i);
  }
  m.running = m.queue[0];
  m.head = 1 % max_lanes;
  --m.queued;
  m.inside = true;
  fiber::swap(m.main, m.lane[m.running].context);
  m.inside = false;
  if (!m.failed && m.done < lanes) detail::report_divergence();
  return !m.failed;
}

}  // namespace simt
