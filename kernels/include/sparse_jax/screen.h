// Upper bounds of scores from bytes, four products to an instruction and lane: rows whose bound
// stays below the k-th best score need no float32 score of their own.
//
// A row is w = s c + e with bytes c, a query q = s' c' + e', so q.w differs from s s' c.c' by at
// most |q| |e| + |e'| |s c| (Cauchy and Schwarz). Lengths are rounded upwards, with room for the
// rounding of the float32 score, of its sum with bias and rest, and of the bound itself; denormals
// may count as zeros.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "sparse_jax/common.h"
#include "sparse_jax/lanes.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define SPARSE_JAX_SCREENS
#define SPARSE_JAX_VNNI __attribute__((target("avx512f,avx512vnni")))
#endif

namespace sparse_jax {

constexpr int64_t kSlabRows = 48;           // rows that stay in the L1 cache while all queries pass
constexpr int64_t kScreenRows = 12;         // rows whose products are summed side by side
constexpr int64_t kMostScreened = 1 << 15;  // coordinates: sums of bytes stay inside int32

// Where the largest coordinate is within these, squares and products are far from the ends of
// float32. Other rows and queries have no bound.
constexpr float kLeastSize = 0x1p-32f, kMostSize = 0x1p32f;
constexpr float kSpare = 0x1p-20f;  // room for rounding, relative
constexpr float kTiny = 0x1p-100f;  // and absolute, above what is lost to denormals

inline bool CanScreen(int64_t d) {
#ifdef SPARSE_JAX_SCREENS
  static const bool kVnni =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
  return kVnni && d <= kMostScreened;
#else
  (void)d;
  return false;
#endif
}

// Sizes of floats as integers: they order as the sizes do, NaN above all, whatever becomes of
// denormals.
inline uint32_t SizeBits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits & 0x7fffffffu;
}

// Whether there is a bound where `bits` are those of the largest size, which is then `*size`.
inline bool Bounded(uint32_t bits, float* size) {
  __builtin_memcpy(size, &bits, sizeof *size);
  return bits == 0 || (bits >= SizeBits(kLeastSize) && bits <= SizeBits(kMostSize));
}

// Queries in groups of `kLanes`, four coordinates at a time: [groups, words, kLanes, 4] bytes, each
// 128 more than the code.
struct ByteQueries {
  int64_t words = 0;  // d / 4, rounded up
  std::vector<uint8_t> codes;
  std::vector<float> steps, lengths, errors;  // [groups * kLanes]

  void Fill(const float* queries, int64_t n, int64_t d) {
    const auto lanes = static_cast<size_t>((n + kLanes - 1) / kLanes * kLanes);
    words = (d + 3) / 4;
    codes.assign(lanes * static_cast<size_t>(words) * 4, 128);
    steps.assign(lanes, 0.0f), lengths = steps, errors = steps;
    for (int64_t b = 0; b < n; ++b) FillOne(queries + b * d, d, b);
  }

 private:
  void FillOne(const float* query, int64_t d, int64_t b) {
    const auto at = static_cast<size_t>(b);
    uint32_t bits = 0;
    for (int64_t i = 0; i < d; ++i) bits = std::max(bits, SizeBits(query[i]));
    float size;
    if (!Bounded(bits, &size)) {
      lengths[at] = errors[at] = std::numeric_limits<float>::infinity();
      return;
    }
    const float step = size / 127.0f;
    const double per_step = size > 0 ? 127.0 / size : 0.0;
    uint8_t* to = codes.data() + (b / kLanes * words * kLanes + b % kLanes) * 4;
    double length = 0, error = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double x = query[i];
      const auto code = static_cast<int32_t>(std::lrint(x * per_step));
      const double off = x - static_cast<double>(step) * code;
      to[i / 4 * kLanes * 4 + i % 4] = static_cast<uint8_t>(code + 128);
      length += x * x, error += off * off;
    }
    steps[at] = step;
    lengths[at] = static_cast<float>(std::sqrt(length)) * (1 + kSpare);
    errors[at] = static_cast<float>(std::sqrt(error)) * (1 + kSpare) + kTiny;
  }
};

#ifdef SPARSE_JAX_SCREENS
SPARSE_JAX_INTRINSICS_BEGIN

// The rows of a slab as bytes, and what bounds their scores.
class ByteRows {
 public:
  explicit ByteRows(int64_t d)
      : d_(d),
        words_((d + kLanes - 1) / kLanes * kLanes / 4),
        codes_(static_cast<size_t>(kSlabRows * words_), 0) {}

  SPARSE_JAX_VNNI void Fill(const float* rows, const float* bias, int64_t n) {
    for (int64_t r = 0; r < n; ++r) FillOne(rows + r * d_, bias[r], r);
  }

  // Bit j of masks[r]: whether row at + r, of n, may reach the floor of query j of group g. `more`
  // [n, kLanes] is what scores have beside w.x + b, or null.
  SPARSE_JAX_VNNI void Screen(const ByteQueries& queries, int64_t g, int64_t at, int64_t n,
                              const float* floors, const float* more, uint16_t* masks) const {
    __m512i sums[kScreenRows];
    SPARSE_JAX_UNROLL
    for (int64_t r = 0; r < kScreenRows; ++r) sums[r] = _mm512_set1_epi32(start_[at + r]);
    const uint8_t* query = queries.codes.data() + g * queries.words * kLanes * 4;
    const int32_t* row = codes_.data() + at * words_;
    for (int64_t i = 0; i < queries.words; ++i, query += kLanes * 4, row += kScreenRows) {
      const __m512i q = _mm512_loadu_si512(query);
      SPARSE_JAX_UNROLL
      for (int64_t r = 0; r < kScreenRows; ++r) {
        // Not by intrinsic: GCC then moves each sum to another register and back.
        asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums[r]) : "v"(q), "m"(row[r]));
      }
    }
    const __m512 step = _mm512_loadu_ps(queries.steps.data() + g * kLanes);
    const __m512 length = _mm512_loadu_ps(queries.lengths.data() + g * kLanes);
    const __m512 error = _mm512_loadu_ps(queries.errors.data() + g * kLanes);
    const __m512 floor = _mm512_loadu_ps(floors);
    SPARSE_JAX_UNROLL
    for (int64_t r = 0; r < kScreenRows; ++r) {
      __m512 bound = _mm512_set1_ps(bias_[at + r]);
      if (more && at + r < n) {
        const __m512 x = _mm512_loadu_ps(more + (at + r) * kLanes);
        const __m512 up = _mm512_mul_ps(x, _mm512_set1_ps(1 + kSpare));
        const __m512 down = _mm512_mul_ps(x, _mm512_set1_ps(1 - kSpare));
        bound = _mm512_add_ps(bound, _mm512_max_ps(up, down));  // -inf stays what it is
      }
      bound = _mm512_fmadd_ps(length, _mm512_set1_ps(error_[at + r]), bound);
      bound = _mm512_fmadd_ps(error, _mm512_set1_ps(length_[at + r]), bound);
      const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r]), step);
      bound = _mm512_fmadd_ps(sum, _mm512_set1_ps(step_[at + r]), bound);
      masks[r] = _mm512_cmp_ps_mask(bound, floor, _CMP_NLT_UQ);  // where NaN, it may
    }
  }

 private:
  SPARSE_JAX_VNNI void FillOne(const float* row, float bias, int64_t r) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    __m512i sizes = _mm512_setzero_si512();
    for (int64_t i = 0; i < d_; i += kLanes) {
      const __m512 x = _mm512_abs_ps(_mm512_maskz_loadu_ps(Present(i), row + i));
      sizes = _mm512_max_epu32(sizes, _mm512_castps_si512(x));
    }
    float size;
    const bool bounded = Bounded(_mm512_reduce_max_epu32(sizes), &size);
    if (!bounded) size = 0;
    const float step = size / 127.0f;
    const __m512 per_step = _mm512_set1_ps(size > 0 ? 127.0f / size : 0.0f);
    const __m512 steps = _mm512_set1_ps(step);
    __m512 lengths = _mm512_setzero_ps(), errors = lengths;
    __m512i sums = _mm512_setzero_si512();
    int32_t* to = codes_.data() + r / kScreenRows * kScreenRows * words_ + r % kScreenRows;
    for (int64_t i = 0; bounded && i < d_; i += kLanes, to += 4 * kScreenRows) {
      const __m512 x = _mm512_maskz_loadu_ps(Present(i), row + i);
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(x, per_step));
      const __m512 off = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(code), steps, x);
      lengths = _mm512_fmadd_ps(x, x, lengths);
      errors = _mm512_fmadd_ps(off, off, errors);
      sums = _mm512_add_epi32(sums, code);
      int32_t words[4];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(words), _mm512_cvtsepi32_epi8(code));
      for (int64_t k = 0; k < 4; ++k) to[k * kScreenRows] = words[k];
    }
    const auto d = static_cast<float>(d_);
    const float spare = 1 + (d + 16) * 0x1p-23f;
    const float length = std::sqrt(_mm512_reduce_add_ps(lengths)) * spare;
    const float error = std::sqrt(_mm512_reduce_add_ps(errors)) * spare;
    start_[r] = -128 * _mm512_reduce_add_epi32(sums);
    step_[r] = step;
    length_[r] = length + error + kTiny;
    error_[r] = error + length * (2 * d + 64) * 0x1p-24f + kTiny;  // with the rounding of q.w
    bias_[r] = bias + std::fabs(bias) * kSpare + kTiny;
    if (!(bias > -kInf)) bias_[r] = -kInf;  // a score of -inf or NaN never ranks
    if (!bounded) bias_[r] = kInf;
  }

  // Lanes of coordinates [i, i + kLanes) that a row has.
  __mmask16 Present(int64_t i) const {
    return static_cast<__mmask16>(d_ - i >= kLanes ? 0xffff : (1 << (d_ - i)) - 1);
  }

  int64_t d_, words_;
  std::vector<int32_t> codes_;     // [kSlabRows / kScreenRows, words, kScreenRows]
  int32_t start_[kSlabRows] = {};  // of a sum: it takes the 128 of the queries' bytes off
  float step_[kSlabRows] = {}, length_[kSlabRows] = {}, error_[kSlabRows] = {};
  float bias_[kSlabRows] = {};
};

SPARSE_JAX_INTRINSICS_END
#else
// Stands in where `CanScreen` is false.
class ByteRows {
 public:
  explicit ByteRows(int64_t) {}
  void Fill(const float*, const float*, int64_t) {}
  void Screen(const ByteQueries&, int64_t, int64_t, int64_t, const float*, const float*,
              uint16_t*) const {}
};
#endif

}  // namespace sparse_jax
