// A stack of its own for each lane, and the switch between two: ~3 ns on x86-64 and aarch64, ucontext elsewhere.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace simt {

constexpr std::size_t stack_bytes = 256 * 1024;  // reserved; a page is used when it is touched
constexpr std::size_t guard_bytes = 16 * 1024;

inline char* new_stack() {
  void* place = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  mprotect(place, guard_bytes, PROT_NONE);
  return static_cast<char*>(place);
}

}  // namespace simt

#if defined(__x86_64__) || defined(__aarch64__)

// simt_switch(save, load): leaves this stack with its pointer in *save and goes on where `load` was left.
extern "C" __attribute__((visibility("hidden"))) void simt_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.pushsection .text
.hidden simt_switch
.globl simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
.popsection
)");
#else
asm(R"(
.pushsection .text
.hidden simt_switch
.globl simt_switch
.type simt_switch,%function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch,.-simt_switch
.popsection
)");
#endif

namespace simt {

struct fiber {
  void* pointer = nullptr;

  void prepare(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + stack_bytes);
#if defined(__x86_64__)
    *--top = nullptr;  // `ret` leaves the stack as a call would: 8 below a multiple of 16
    *--top = reinterpret_cast<void*>(entry);
    top -= 6;
    for (int i = 0; i < 6; ++i) top[i] = nullptr;
#else
    top -= 20;
    for (int i = 0; i < 20; ++i) top[i] = nullptr;
    top[11] = reinterpret_cast<void*>(entry);
#endif
    pointer = top;
  }
  static void swap(fiber& from, fiber& to) { simt_switch(&from.pointer, to.pointer); }
};

}  // namespace simt

#else
#include <ucontext.h>

namespace simt {

struct fiber {
  ucontext_t context;

  void prepare(char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack + guard_bytes;
    context.uc_stack.ss_size = stack_bytes - guard_bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void swap(fiber& from, fiber& to) { swapcontext(&from.context, &to.context); }
};

}  // namespace simt
#endif
