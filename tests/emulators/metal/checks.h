// What the compiler's own checks call: an index outside of an array, a shift by too much, a division by 0.
// Their run-time library is not linked.
#pragma once
#include "entry.h"

namespace msl {

struct place {
  const char* file;
  unsigned line, column;
};
[[noreturn]] __attribute__((cold)) inline void checked(void* at, const char* what, void* value) {
  const place* in = static_cast<const place*>(at);
  simt::say_who();
  simt::say(": %s %ld (at %s:%u)", what, reinterpret_cast<long>(value), in->file, in->line);
  simt::stop();
}

}  // namespace msl

extern "C" void __ubsan_handle_out_of_bounds(void* place, void* index) {
  msl::checked(place, "an array is too short for the index", index);
}
extern "C" void __ubsan_handle_shift_out_of_bounds(void* place, void*, void* by) {
  msl::checked(place, "a shift is undefined for the exponent", by);
}
extern "C" void __ubsan_handle_divrem_overflow(void* place, void*, void* by) {
  msl::checked(place, "a division is undefined by", by);
}
