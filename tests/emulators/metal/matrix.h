// simdgroup_matrix<T, 8, 8>: 64 elements over 32 lanes, two each, placed as Apple's GPUs place them; products summed in float.
#pragma once
#include "simd.h"

namespace msl {

template <class T, int Columns, int Rows>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "only 8x8");
  static_assert(is_float_v<T> && is_scalar_v<T>);
  vec<T, 2> elements;

  simdgroup_matrix() { std::memset(&elements, 0xff, sizeof elements); }  // NaN: not initialised
  explicit simdgroup_matrix(T diagonal);
  vec<T, 2>& thread_elements() { return elements; }
  const vec<T, 2>& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

// Where a lane's two elements lie: (row, column) and (row, column + 1).
constexpr unsigned matrix_row(unsigned lane) { return (lane / 4 & 4) + (lane / 2) % 4; }
constexpr unsigned matrix_column(unsigned lane) { return (lane / 4 & 2) * 2 + (lane % 2) * 2; }

inline void whole_simdgroup(const char* kind, site at) {
  if (present_mask() != full_mask) fail(at, "%s in a simdgroup that has not all of its 32 lanes", kind);
}

template <class T, int C, int R>
simdgroup_matrix<T, C, R>::simdgroup_matrix(T diagonal) {
  const unsigned row = matrix_row(lane_id()), column = matrix_column(lane_id());
  elements = vec<T, 2>(row == column ? diagonal : T(0.0f), row == column + 1 ? diagonal : T(0.0f));
}
template <class T, int C, int R>
simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, C, R> matrix;
  matrix.elements = vec<T, 2>(value, value);
  return matrix;
}
template <class T, int C, int R>
simdgroup_matrix<T, C, R> make_diagonal_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, C, R>(value);
}

// The places of a lane's two elements in memory; all lanes must give the same arguments.
struct matrix_place {
  std::ptrdiff_t first, second;
};
inline matrix_place matrix_places(const char* kind, site at, const volatile void* base, ulong per_row, ulong2 origin, bool transpose) {
  whole_simdgroup(kind, at);
  struct given {
    const volatile void* base;
    ulong per_row, x, y;
    bool transpose;
    bool operator!=(const given& o) const {
      return base != o.base || per_row != o.per_row || x != o.x || y != o.y || transpose != o.transpose;
    }
  };
  given mine;
  std::memset(&mine, 0, sizeof mine);
  mine.base = base;
  mine.per_row = per_row;
  mine.x = origin.x;
  mine.y = origin.y;
  mine.transpose = transpose;
  return rendezvous<matrix_place>(kind, at, full_mask, mine, [&](const given* in, matrix_place* out, unsigned) {
    for (unsigned i = 0; i < warp_lanes; ++i) {
      if (in[i] != in[0]) fail(at, "%s: lanes 0 and %u give different arguments", kind, i);
      const unsigned row = matrix_row(i), column = matrix_column(i);
      const std::ptrdiff_t corner = std::ptrdiff_t(origin.y) * std::ptrdiff_t(per_row) + std::ptrdiff_t(origin.x);
      out[i].first = corner + (transpose ? column * std::ptrdiff_t(per_row) + row : row * std::ptrdiff_t(per_row) + column);
      out[i].second = out[i].first + (transpose ? std::ptrdiff_t(per_row) : 1);
    }
  });
}
template <class T, class Space>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& to, pointer<Space, const T> from, ulong elements_per_row = 8,
                    ulong2 matrix_origin = ulong2(0ul, 0ul), bool transpose_matrix = false, site at = site::here()) {
  const matrix_place place = matrix_places("simdgroup_load", at, from.raw, elements_per_row, matrix_origin, transpose_matrix);
  to.elements = vec<T, 2>(from[place.first], from[place.second]);
}
template <class T, class Space>
void simdgroup_store(const simdgroup_matrix<T, 8, 8>& from, pointer<Space, T> to, ulong elements_per_row = 8,
                     ulong2 matrix_origin = ulong2(0ul, 0ul), bool transpose_matrix = false, site at = site::here()) {
  static_assert(!std::is_same_v<Space, constant>, "simdgroup_store to constant memory");
  const matrix_place place = matrix_places("simdgroup_store", at, to.raw, elements_per_row, matrix_origin, transpose_matrix);
  to[place.first] = from.elements.x;
  to[place.second] = from.elements.y;
}

template <class D, class A, class B>
void multiply_accumulate(const char* kind, site at, simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                         const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<D, 8, 8>& c) {
  whole_simdgroup(kind, at);
  struct given {
    float a[2], b[2], c[2];
  };
  const given mine = {{float(a.elements.x), float(a.elements.y)},
                      {float(b.elements.x), float(b.elements.y)},
                      {float(c.elements.x), float(c.elements.y)}};
  d.elements = rendezvous<vec<D, 2>>(kind, at, full_mask, mine, [](const given* in, vec<D, 2>* out, unsigned) {
    float left[8][8], right[8][8];
    for (unsigned i = 0; i < warp_lanes; ++i)
      for (unsigned j = 0; j < 2; ++j) {
        left[matrix_row(i)][matrix_column(i) + j] = in[i].a[j];
        right[matrix_row(i)][matrix_column(i) + j] = in[i].b[j];
      }
    for (unsigned i = 0; i < warp_lanes; ++i)
      for (unsigned j = 0; j < 2; ++j) {
        float sum = in[i].c[j];
        for (unsigned k = 0; k < 8; ++k) sum += left[matrix_row(i)][k] * right[k][matrix_column(i) + j];
        out[i].at(j) = D(sum);
      }
  });
}
// d = a b + c and d = a b; a and b may be narrower than d
template <class D, class A, class B>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b,
                                   const simdgroup_matrix<D, 8, 8>& c, site at = site::here()) {
  multiply_accumulate("simdgroup_multiply_accumulate", at, d, a, b, c);
}
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b,
                        site at = site::here()) {
  multiply_accumulate("simdgroup_multiply", at, d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0.0f)));
}

}  // namespace msl
