// Intrinsics in which lanes of a warp meet: shuffles, votes, reductions, mma, ldmatrix. Whoever is named in the mask must
// come to the same call with the same mask; mma and ldmatrix need all 32.
#pragma once
#include <cmath>

#include "memory.h"

namespace cuda {

using simt::rendezvous;
using u64 = unsigned long;

constexpr unsigned lanes = simt::warp_lanes;

inline void need_full_warp(const char* kind, const void* at) {
  if (simt::present_mask() != simt::full_mask) fail(place(at), "%s in a warp of fewer than 32 threads", kind);
}

inline u64 shuffle(int kind, unsigned mask, u64 value, int argument, int width, const void* at) {
  static const char* names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  if (width < 1 || width > 32 || (width & (width - 1))) fail(place(at), "%s with width %d: a power of two up to 32 is needed", names[kind], width);
  struct in_t {
    u64 value;
    int argument, width;
  };
  return rendezvous<u64>(names[kind], place(at), mask, in_t{value, argument, width}, [&](const in_t* in, u64* out, unsigned) {
    for (unsigned lane = 0; lane < lanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      const int w = in[lane].width, first = lane & ~(w - 1), last = first + w - 1, by = in[lane].argument;
      int from = kind == 0 ? first | (by & (w - 1)) : kind == 1 ? int(lane) - by : kind == 2 ? int(lane) + by : int(lane) ^ by;
      if (from > last || (kind == 1 && from < first) || from < 0) from = lane;
      if (!(mask >> from & 1)) fail(place(at), "%s: lane %u reads lane %d, which is not in the mask %08x", names[kind], lane, from, mask);
      out[lane] = in[from].value;
    }
  });
}

inline unsigned vote(int kind, unsigned mask, bool predicate, const void* at) {
  static const char* names[] = {"__ballot_sync", "__all_sync", "__any_sync"};
  return rendezvous<unsigned>(names[kind], place(at), mask, predicate, [&](const bool* in, unsigned* out, unsigned) {
    unsigned ballot = 0;
    for (unsigned i = 0; i < lanes; ++i)
      if (mask >> i & 1) ballot |= unsigned(in[i]) << i;
    for (unsigned i = 0; i < lanes; ++i) out[i] = kind == 0 ? ballot : kind == 1 ? ballot == mask : ballot != 0;
  });
}

inline unsigned reduce(int kind, unsigned mask, unsigned value, const void* at) {
  static const char* names[] = {"add", "min", "min", "max", "max", "and", "or", "xor"};
  return rendezvous<unsigned>("__reduce_sync", place(at), mask, value, [&](const unsigned* in, unsigned* out, unsigned) {
    unsigned total = 0;
    bool first = true;
    for (unsigned i = 0; i < lanes; ++i) {
      if (!(mask >> i & 1)) continue;
      const unsigned v = in[i];
      const bool less = kind == 2 || kind == 4 ? int(v) < int(total) : v < total;
      if (first) total = v;
      else if (kind == 0) total += v;
      else if (kind <= 2) total = less ? v : total;
      else if (kind <= 4) total = less ? total : v;
      else total = kind == 5 ? total & v : kind == 6 ? total | v : total ^ v;
      first = false;
    }
    for (unsigned i = 0; i < lanes; ++i) out[i] = total;
    (void)names;
  });
}

inline unsigned match(unsigned mask, u64 value, const void* at) {
  return rendezvous<unsigned>("__match_any_sync", place(at), mask, value, [&](const u64* in, unsigned* out, unsigned) {
    for (unsigned i = 0; i < lanes; ++i) {
      out[i] = 0;
      for (unsigned j = 0; j < lanes; ++j)
        if ((mask >> j & 1) && in[i] == in[j]) out[i] |= 1u << j;
    }
  });
}

inline int exponent_of(float value) { return int(simt::float_bits(value) >> 23 & 255) - 127; }

// c + sum of a[i] * b[i] as the tensor cores of sm_80 and sm_89 add eight exact products: every term is cut (towards zero)
// one bit below the 24 of the largest exponent, all are added exactly, and the sum is cut to 24 bits. sm_90 keeps one more.
inline float tensor_sum(float c, const float* a, const float* b) {
  double plain = c;
  int exponent = exponent_of(c);
  for (int i = 0; i < 8; ++i) {
    plain += double(a[i]) * double(b[i]);
    const int of_product = exponent_of(a[i]) + exponent_of(b[i]);
    if (of_product > exponent && a[i] != 0 && b[i] != 0) exponent = of_product;
  }
  if (!(std::fabs(plain) <= __FLT_MAX__) || exponent < -126) return float(plain);
  const double scale = __builtin_bit_cast(double, u64(1023 + 24 - exponent) << 52), back = __builtin_bit_cast(double, u64(1023 - 24 + exponent) << 52);
  long sum = long(double(c) * scale);
  for (int i = 0; i < 8; ++i) sum += long(double(a[i]) * double(b[i]) * scale);
  const unsigned long size = sum < 0 ? -static_cast<unsigned long>(sum) : sum;
  const int extra = size >> 24 ? 64 - 24 - __builtin_clzl(size) : 0;
  const double cut = double(size >> extra << extra) * back;
  return float(sum < 0 ? -cut : cut);
}

struct fragments {
  unsigned a[4], b[2];
  float c[4];
};
struct fragment {
  float d[4];
};

// D = A B + C, 16x8x16, A row-major, B column-major, in the fragments of the PTX ISA ("Matrix Fragments for mma.m16n8k16").
template <class Format>
void mma(const fragments* in, fragment* out) {
  auto value = [](unsigned word, int half) { return Format::decode(std::uint16_t(word >> (16 * half))); };
  float a[16][16], b[8][16], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int row = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) a[row + (i & 1) * 8][pair + (i >> 1) * 8 + half] = value(in[lane].a[i], half);
      for (int i = 0; i < 2; ++i) b[row][pair + i * 8 + half] = value(in[lane].b[i], half);
      for (int i = 0; i < 2; ++i) c[row + i * 8][pair + half] = in[lane].c[i * 2 + half];
    }
  }
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j)
      for (int k = 0; k < 16; k += 8) c[i][j] = tensor_sum(c[i][j], a[i] + k, b[j] + k);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) out[lane].d[i] = c[lane / 4 + (i >> 1) * 8][lane % 4 * 2 + (i & 1)];
}

// Lane L's words: matrix i, row L/4, columns 2(L%4) and the next; transposed: rows 2(L%4) and the next, column L/4.
inline void ldmatrix(unsigned* words, int count, bool transpose, const char* row, const void* at) {
  struct rows_t {
    const char* row[lanes];
  };
  need_full_warp("ldmatrix", at);
  const rows_t rows = rendezvous<rows_t>("ldmatrix", place(at), simt::full_mask, row, [](const char* const* in, rows_t* out, unsigned) {
    for (unsigned i = 0; i < lanes; ++i) std::memcpy(out[i].row, in, sizeof(rows_t));
  });
  const unsigned lane = simt::lane_id();
  for (int i = 0; i < count; ++i) {
    words[i] = 0;
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned pair = lane % 4 * 2 + half;
      const char* from = transpose ? rows.row[i * 8 + pair] + lane / 4 * 2 : rows.row[i * 8 + lane / 4] + pair * 2;
      const char* first = rows.row[i * 8 + (transpose ? pair : lane / 4)];
      if (reinterpret_cast<std::uintptr_t>(first) % 16) fail(place(at), "ldmatrix: a row that does not start at a multiple of 16 bytes");
      access(from, 2, false, space::shared, at);
      words[i] |= unsigned(*reinterpret_cast<const std::uint16_t*>(from)) << (16 * half);
    }
  }
}

}  // namespace cuda
