"""SIMT on a CPU: a C++17 core that runs a group of GPU threads lane by lane, and its build. A shim is written on top.

    types.h    half (float converts to it) and bfloat (only with a cast), `float_to_half_bits` and its like
    simt.h     `run_group(lanes, body, argument)`; inside it `lane_in_group()`, `lane_id()`, `warp_id()`, `present_mask()`,
               `barrier(kind, site)`, `warp_barrier(kind, site, mask)`, `rendezvous<Out>(kind, site, mask, in, compute)`, `fail`
    memory.h   `buffer` (bounds, writes, races), `shared(id, name, bytes, alignment, unit)`, `arena.limit`
    pointer.h  `pointer<Space, T>`, a checked pointer; `plain(x)`, the value of what `p[i]` gives
    entry.h    includes all of them; a kernel's library exports `extern "C" int simt_launch(...)`: 0, or 1 after `fail`

A launch: `begin_launch(name)`, `m.group[...]`, one `run_group` a group. `site at = site::here()` as a default argument is the
caller's place. In a rendezvous `in[i]` of a lane outside the mask is all ones (NaN).
"""

from .build import CompileError, KernelError, Library, compile_kernel

__all__ = ["CompileError", "KernelError", "Library", "compile_kernel"]
