// The PTX instructions that a kernel's `asm` may hold: rewrite.py turns `mnemonic d, a, b;` into `ptx::mnemonic(d, a, b)`,
// dots written as underscores, hints (L1::..., L2::...) dropped, vectors flattened. The names here are all it knows.
// Operands carry the type that their constraint says, and no conversion hides a wrong one.
#pragma once

namespace ptx {

using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long;
using s32 = int;
using f32 = float;
using f64 = double;

template <class T>
constexpr bool integral = __is_enum(T) || __is_same(T, char) || __is_same(T, signed char) || __is_same(T, unsigned char) ||
                          __is_same(T, short) || __is_same(T, unsigned short) || __is_same(T, int) || __is_same(T, unsigned) ||
                          __is_same(T, long) || __is_same(T, unsigned long) || __is_same(T, long long) ||
                          __is_same(T, unsigned long long) || __is_same(T, bool);

#define PTX_CONSTRAINT(letter, R, condition, message)                                  \
  template <class T>                                                                   \
  inline R& out_##letter(T& x) {                                                       \
    static_assert(condition && !__is_same(T, bool), message);                          \
    return reinterpret_cast<R&>(x);                                                    \
  }                                                                                    \
  template <class T>                                                                   \
  inline R& both_##letter(T& x) { return out_##letter(x); }                            \
  template <class T>                                                                   \
  inline R in_##letter(T x) {                                                          \
    static_assert(condition, message);                                                 \
    return R(x);                                                                       \
  }
PTX_CONSTRAINT(f, f32, (__is_same(T, float)), "constraint f takes a float")
PTX_CONSTRAINT(d, f64, (__is_same(T, double)), "constraint d takes a double")
PTX_CONSTRAINT(r, u32, (integral<T> && sizeof(T) == 4), "constraint r takes a 32-bit integer")
PTX_CONSTRAINT(h, u16, (integral<T> && sizeof(T) == 2), "constraint h takes a 16-bit integer")
template <class T>
inline u64& out_l(T& x) {
  static_assert(integral<T> && sizeof(T) == 8, "constraint l takes a 64-bit integer");
  return reinterpret_cast<u64&>(x);
}
template <class T>
inline u64& both_l(T& x) { return out_l(x); }
template <class T>
inline u64 in_l(T x) {
  static_assert(sizeof(T) == 8 && !__is_same(T, double), "constraint l takes a 64-bit integer or a pointer");
  return u64(x);
}
template <class T>
inline constexpr int in_n(T x) {
  static_assert(integral<T>, "constraint n takes an integer constant");
  return static_cast<int>(x);
}

// A value of just this type; an immediate (an int) may stand for any of them.
template <class T>
struct in {
  T value;
  in(T v) : value(v) {}
  in(int v) : value(static_cast<T>(v)) {}
  template <class U>
  in(U) = delete;
  operator T() const { return value; }
};
template <>
struct in<int> {
  int value;
  in(int v) : value(v) {}
  in(unsigned v) : value(static_cast<int>(v)) {}
  template <class U>
  in(U) = delete;
  operator int() const { return value; }
};

// ---- integers -------------------------------------------------------------------------------------------------------

inline void mov_b32(u32& d, in<u32> a) { d = a; }
inline void mov_u32(u32& d, in<u32> a) { d = a; }
inline void mov_f32(f32& d, in<f32> a) { d = a; }
inline void mov_b64(u64& d, in<u32> low, in<u32> high) { d = u64(high) << 32 | low; }
inline void and_b32(u32& d, in<u32> a, in<u32> b) { d = a & b; }
inline void or_b32(u32& d, in<u32> a, in<u32> b) { d = a | b; }
inline void xor_b32(u32& d, in<u32> a, in<u32> b) { d = a ^ b; }
inline void not_b32(u32& d, in<u32> a) { d = ~u32(a); }
inline void add_u32(u32& d, in<u32> a, in<u32> b) { d = a + b; }
inline void sub_u32(u32& d, in<u32> a, in<u32> b) { d = a - b; }
inline void shl_b32(u32& d, in<u32> a, in<u32> b) { d = b > 31 ? 0 : a << b; }
inline void shr_u32(u32& d, in<u32> a, in<u32> b) { d = b > 31 ? 0 : a >> b; }
inline void shr_b32(u32& d, in<u32> a, in<u32> b) { shr_u32(d, a, b); }
inline void popc_b32(u32& d, in<u32> a) { d = u32(__popc(a)); }
inline void brev_b32(u32& d, in<u32> a) { d = __brev(a); }
inline void shf_l_wrap_b32(u32& d, in<u32> low, in<u32> high, in<u32> by) { d = __funnelshift_l(low, high, by); }
inline void shf_r_wrap_b32(u32& d, in<u32> low, in<u32> high, in<u32> by) { d = __funnelshift_r(low, high, by); }
inline void bfe_u32(u32& d, in<u32> a, in<u32> from, in<u32> length) {
  const u32 p = from & 255, n = length & 255;
  d = p > 31 || n == 0 ? 0 : (a >> p) & (n > 31 ? ~0u : (1u << n) - 1);
}
inline void bfi_b32(u32& d, in<u32> a, in<u32> b, in<u32> from, in<u32> length) {
  const u32 p = from & 255, n = length & 255, mask = p > 31 || n == 0 ? 0 : (n > 31 ? ~0u : (1u << n) - 1) << p;
  d = (b & ~mask) | (p > 31 ? 0 : (a << p) & mask);
}
// Bit i of d is bit 4a+2b+c of the table, for bits i of a, b, c.
inline void lop3_b32(u32& d, in<u32> a, in<u32> b, in<u32> c, in<int> table) {
  u32 result = 0;
  for (int i = 0; i < 8; i++)
    if (table >> i & 1) result |= (i & 4 ? u32(a) : ~u32(a)) & (i & 2 ? u32(b) : ~u32(b)) & (i & 1 ? u32(c) : ~u32(c));
  d = result;
}
// Byte i of d: selector nibble i picks one of b:a's eight bytes; its bit 3 spreads that byte's sign.
inline void prmt_b32(u32& d, in<u32> a, in<u32> b, in<u32> selector) {
  const u64 bytes = u64(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; i++) {
    const u32 nibble = selector >> (4 * i) & 15, byte = u32(bytes >> (8 * (nibble & 7))) & 255;
    result |= (nibble & 8 ? (byte & 128 ? 255 : 0) : byte) << (8 * i);
  }
  d = result;
}
inline void setp_ne_b32(bool& p, in<u32> a, in<u32> b) { p = a != b; }
inline void setp_ne_u32(bool& p, in<u32> a, in<u32> b) { p = a != b; }
inline void setp_ne_s32(bool& p, in<u32> a, in<u32> b) { p = a != b; }
inline void setp_eq_u32(bool& p, in<u32> a, in<u32> b) { p = a == b; }
inline void setp_lt_u32(bool& p, in<u32> a, in<u32> b) { p = a < b; }
inline void setp_lt_s32(bool& p, in<u32> a, in<u32> b) { p = s32(u32(a)) < s32(u32(b)); }
inline void selp_b32(u32& d, in<u32> a, in<u32> b, bool p) { d = p ? a : b; }
inline void selp_f32(f32& d, in<f32> a, in<f32> b, bool p) { d = p ? f32(a) : f32(b); }

// ---- floats ---------------------------------------------------------------------------------------------------------

inline void fma_rn_f32(f32& d, in<f32> a, in<f32> b, in<f32> c) { d = __builtin_fmaf(a, b, c); }
inline void add_f32(f32& d, in<f32> a, in<f32> b) { d = __fadd_rn(a, b); }
inline void add_rn_f32(f32& d, in<f32> a, in<f32> b) { d = __fadd_rn(a, b); }
inline void sub_f32(f32& d, in<f32> a, in<f32> b) { d = __fsub_rn(a, b); }
inline void mul_f32(f32& d, in<f32> a, in<f32> b) { d = __fmul_rn(a, b); }
inline void mul_rn_f32(f32& d, in<f32> a, in<f32> b) { d = __fmul_rn(a, b); }
template <class H2, class Operation>
inline void pairwise(u32& d, u32 a, u32 b, u32 c, Operation operation) {
  d = __builtin_bit_cast(u32, operation(__builtin_bit_cast(H2, a), __builtin_bit_cast(H2, b), __builtin_bit_cast(H2, c)));
}
inline void fma_rn_bf16x2(u32& d, in<u32> a_, in<u32> b_, in<u32> c_) {
  pairwise<__nv_bfloat162>(d, a_, b_, c_, [](auto a, auto b, auto c) { return __hfma2(a, b, c); });
}
inline void fma_rn_f16x2(u32& d, in<u32> a_, in<u32> b_, in<u32> c_) {
  pairwise<__half2>(d, a_, b_, c_, [](auto a, auto b, auto c) { return __hfma2(a, b, c); });
}
inline void add_f16x2(u32& d, in<u32> a_, in<u32> b_) {
  pairwise<__half2>(d, a_, b_, 0, [](auto a, auto b, auto) { return a + b; });
}
inline void sub_f16x2(u32& d, in<u32> a_, in<u32> b_) {
  pairwise<__half2>(d, a_, b_, 0, [](auto a, auto b, auto) { return a - b; });
}
inline void mul_f16x2(u32& d, in<u32> a_, in<u32> b_) {
  pairwise<__half2>(d, a_, b_, 0, [](auto a, auto b, auto) { return a * b; });
}
// The first source becomes the upper half.
inline void cvt_rn_bf16x2_f32(u32& d, in<f32> upper, in<f32> lower) {
  d = __builtin_bit_cast(u32, __floats2bfloat162_rn(lower, upper));
}
inline void cvt_rn_f16x2_f32(u32& d, in<f32> upper, in<f32> lower) {
  d = __builtin_bit_cast(u32, __floats2half2_rn(lower, upper));
}

// ---- memory ---------------------------------------------------------------------------------------------------------

#define PTX_LOAD1(name, T, space)                                                   \
  inline void name(T& d, in<u64> address, SIMT_LINE) {                              \
    const T* p = reinterpret_cast<const T*>(u64(address));                          \
    simt_check(p, sizeof(T), 0, space, line);                                       \
    d = *p;                                                                         \
  }
#define PTX_LOAD2(name, T, space)                                                   \
  inline void name(T& d0, T& d1, in<u64> address, SIMT_LINE) {                      \
    const T* p = reinterpret_cast<const T*>(u64(address));                          \
    simt_check(p, 2 * sizeof(T), 0, space, line);                                   \
    d0 = p[0], d1 = p[1];                                                           \
  }
#define PTX_LOAD4(name, T, space)                                                   \
  inline void name(T& d0, T& d1, T& d2, T& d3, in<u64> address, SIMT_LINE) {        \
    const T* p = reinterpret_cast<const T*>(u64(address));                          \
    simt_check(p, 4 * sizeof(T), 0, space, line);                                   \
    d0 = p[0], d1 = p[1], d2 = p[2], d3 = p[3];                                     \
  }
PTX_LOAD1(ld_global_nc_u16, u16, simt_read_only)
PTX_LOAD1(ld_global_nc_b16, u16, simt_read_only)
PTX_LOAD1(ld_global_nc_u32, u32, simt_read_only)
PTX_LOAD1(ld_global_nc_b32, u32, simt_read_only)
PTX_LOAD1(ld_global_nc_f32, f32, simt_read_only)
PTX_LOAD1(ld_global_nc_u64, u64, simt_read_only)
PTX_LOAD1(ld_global_nc_b64, u64, simt_read_only)
PTX_LOAD2(ld_global_nc_v2_u32, u32, simt_read_only)
PTX_LOAD2(ld_global_nc_v2_b32, u32, simt_read_only)
PTX_LOAD2(ld_global_nc_v2_f32, f32, simt_read_only)
PTX_LOAD2(ld_global_nc_v2_u64, u64, simt_read_only)
PTX_LOAD4(ld_global_nc_v4_u32, u32, simt_read_only)
PTX_LOAD4(ld_global_nc_v4_b32, u32, simt_read_only)
PTX_LOAD4(ld_global_nc_v4_f32, f32, simt_read_only)
PTX_LOAD1(ld_global_u16, u16, simt_global)
PTX_LOAD1(ld_global_b16, u16, simt_global)
PTX_LOAD1(ld_global_u32, u32, simt_global)
PTX_LOAD1(ld_global_b32, u32, simt_global)
PTX_LOAD1(ld_global_f32, f32, simt_global)
PTX_LOAD1(ld_global_u64, u64, simt_global)
PTX_LOAD1(ld_global_b64, u64, simt_global)
PTX_LOAD2(ld_global_v2_u32, u32, simt_global)
PTX_LOAD2(ld_global_v2_b32, u32, simt_global)
PTX_LOAD2(ld_global_v2_f32, f32, simt_global)
PTX_LOAD2(ld_global_v2_u64, u64, simt_global)
PTX_LOAD4(ld_global_v4_u32, u32, simt_global)
PTX_LOAD4(ld_global_v4_b32, u32, simt_global)
PTX_LOAD4(ld_global_v4_f32, f32, simt_global)

inline void ldmatrix_sync_aligned_m8n8_x1_shared_b16(u32& d, in<u32> address, SIMT_LINE) {
  simt_ldmatrix(&d, 1, 0, address, line);
}
#define PTX_LDMATRIX2(name, transpose)                                     \
  inline void name(u32& d0, u32& d1, in<u32> address, SIMT_LINE) {         \
    u32 words[2];                                                          \
    simt_ldmatrix(words, 2, transpose, address, line);                     \
    d0 = words[0], d1 = words[1];                                          \
  }
#define PTX_LDMATRIX4(name, transpose)                                                 \
  inline void name(u32& d0, u32& d1, u32& d2, u32& d3, in<u32> address, SIMT_LINE) {   \
    u32 words[4];                                                                      \
    simt_ldmatrix(words, 4, transpose, address, line);                                 \
    d0 = words[0], d1 = words[1], d2 = words[2], d3 = words[3];                        \
  }
PTX_LDMATRIX2(ldmatrix_sync_aligned_m8n8_x2_shared_b16, 0)
PTX_LDMATRIX2(ldmatrix_sync_aligned_m8n8_x2_trans_shared_b16, 1)
PTX_LDMATRIX4(ldmatrix_sync_aligned_m8n8_x4_shared_b16, 0)
PTX_LDMATRIX4(ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16, 1)

#define PTX_CP_ASYNC(name)                                                                                  \
  inline void name(in<u32> shared, in<u64> global, in<int> bytes, SIMT_LINE) {                              \
    simt_cp_async(shared, reinterpret_cast<const void*>(u64(global)), bytes, bytes, line);                  \
  }                                                                                                         \
  inline void name(in<u32> shared, in<u64> global, in<int> bytes, in<int> source_bytes, SIMT_LINE) {        \
    simt_cp_async(shared, reinterpret_cast<const void*>(u64(global)), bytes, source_bytes, line);           \
  }
PTX_CP_ASYNC(cp_async_ca_shared_global)
PTX_CP_ASYNC(cp_async_cg_shared_global)
inline void cp_async_commit_group() { simt_cp_async_commit(); }
inline void cp_async_wait_group(int keep) { simt_cp_async_wait(keep); }
inline void cp_async_wait_all() {
  simt_cp_async_commit();
  simt_cp_async_wait(0);
}

// ---- tensor cores ---------------------------------------------------------------------------------------------------

#define PTX_MMA(name, type)                                                                                              \
  inline void name(f32& d0, f32& d1, f32& d2, f32& d3, in<u32> a0, in<u32> a1, in<u32> a2, in<u32> a3, in<u32> b0,       \
                   in<u32> b1, in<f32> c0, in<f32> c1, in<f32> c2, in<f32> c3, SIMT_LINE) {                              \
    const simt_fragment d = simt_mma(type, {{a0, a1, a2, a3}, {b0, b1}, {c0, c1, c2, c3}}, line);                        \
    d0 = d.d[0], d1 = d.d[1], d2 = d.d[2], d3 = d.d[3];                                                                  \
  }
PTX_MMA(mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32, 0)
PTX_MMA(mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32, 1)

}  // namespace ptx
