// The inner loops of `partition.h`: a tile of integer queries by rows, and a panel of logits.
//
// Each has a plain form, and one for AVX2, which AVX-512 machines take too. On other machines the
// plain form is slower than products in float32, and `FastPartition` says so.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "sparse_jax/common.h"
#include "sparse_jax/lanes.h"

#ifdef SPARSE_JAX_MULTIVERSION
#include <immintrin.h>
#define SPARSE_JAX_FMA __attribute__((target("avx2,fma")))
#endif

namespace sparse_jax {

constexpr int64_t kTileQueries = 6;  // with kLanes rows: 12 of AVX2's 16 registers hold sums
constexpr int64_t kPanelRows = 64;   // rows that stay in the L1 cache while queries pass
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLowest = -1e30f;

// 2^x = 2^n p(r), n whole and r in [-1/2, 1/2]; p has the least relative error of its degree, 10^-7,
// with p(0) = 1. Adding kWhole leaves n + 127 in the last bits: the exponent of 2^n.
constexpr float kPowers[] = {1.0f,           6.931470037e-1f, 2.402224243e-1f,
                             5.550733581e-2f, 9.671512991e-3f, 1.326472731e-3f};
constexpr float kWhole = 12582912.0f + 127.0f;
constexpr float kLeastPower = -126.0f;  // what is below adds nothing that a sum would notice

inline int64_t LowestBit(uint64_t bits) {
#ifdef __GNUC__
  return __builtin_ctzll(bits);
#else
  int64_t found = 0;
  for (; (bits & 1) == 0; bits >>= 1) ++found;
  return found;
#endif
}

#ifdef SPARSE_JAX_MULTIVERSION

inline bool HasFma() {
  static const bool kFound = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return kFound;
}

SPARSE_JAX_FMA inline void TileProductsFma(const int16_t* queries, const int16_t* rows,
                                           int64_t pairs, int32_t* sums) {
  __m256i low[kTileQueries], high[kTileQueries];
  SPARSE_JAX_UNROLL
  for (int64_t j = 0; j < kTileQueries; ++j) low[j] = high[j] = _mm256_setzero_si256();
  for (int64_t i = 0; i < pairs; ++i, queries += kTileQueries * 2, rows += kLanes * 2) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + kLanes));
    SPARSE_JAX_UNROLL
    for (int64_t j = 0; j < kTileQueries; ++j) {
      int32_t pair;
      std::memcpy(&pair, queries + 2 * j, sizeof pair);
      const __m256i q = _mm256_set1_epi32(pair);
      low[j] = _mm256_add_epi32(low[j], _mm256_madd_epi16(q, a));
      high[j] = _mm256_add_epi32(high[j], _mm256_madd_epi16(q, b));
      // One query after another: with all six under way at once GCC keeps sums in memory.
      asm volatile("" : "+x"(low[j]), "+x"(high[j]));
    }
  }
  SPARSE_JAX_UNROLL
  for (int64_t j = 0; j < kTileQueries; ++j, sums += kPanelRows) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), low[j]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kLanes / 2), high[j]);
  }
}

SPARSE_JAX_FMA inline float PanelLogitsFma(const int32_t* sums, const float* steps,
                                           const float* starts, float step, float* logits) {
  const __m256 scale = _mm256_set1_ps(step);
  __m256 most = _mm256_set1_ps(kLowest);
  for (int64_t i = 0; i < kPanelRows; i += 8) {
    const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i));
    const __m256 each = _mm256_mul_ps(_mm256_loadu_ps(steps + i), scale);
    const __m256 x = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), each, _mm256_loadu_ps(starts + i));
    _mm256_storeu_ps(logits + i, x);
    most = _mm256_max_ps(x, most);  // the second where one is NaN
  }
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

SPARSE_JAX_FMA inline float PanelSumFma(const float* logits, float most) {
  const __m256 top = _mm256_set1_ps(most), least = _mm256_set1_ps(kLeastPower);
  const __m256 whole = _mm256_set1_ps(kWhole);
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t i = 0; i < kPanelRows; i += 16) {
    SPARSE_JAX_UNROLL
    for (int64_t k = 0; k < 2; ++k) {
      const __m256 x = _mm256_sub_ps(_mm256_loadu_ps(logits + i + 8 * k), top);
      const __m256 kept = _mm256_max_ps(least, x);  // NaN stays NaN
      const __m256 shifted = _mm256_add_ps(kept, whole);
      const __m256 r = _mm256_sub_ps(kept, _mm256_sub_ps(shifted, whole));
      __m256 p = _mm256_set1_ps(kPowers[5]);
      SPARSE_JAX_UNROLL
      for (int power = 4; power >= 0; --power) {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kPowers[power]));
      }
      const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
      sums[k] = _mm256_fmadd_ps(p, _mm256_castsi256_ps(exponent), sums[k]);
    }
  }
  const __m256 both = _mm256_add_ps(sums[0], sums[1]);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

SPARSE_JAX_FMA inline uint64_t PanelAboveFma(const float* logits, float bar) {
  const __m256 least = _mm256_set1_ps(bar);
  uint64_t found = 0;
  for (int64_t i = 0; i < kPanelRows; i += 8) {
    const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(logits + i), least, _CMP_GT_OQ);
    found |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(above))) << i;
  }
  return found;
}

SPARSE_JAX_FMA inline float DotFma(const float* x, const float* y, int64_t d) {
  __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  int64_t i = 0;
  for (; i + 16 <= d; i += 16) {
    sums[0] = _mm256_fmadd_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i), sums[0]);
    sums[1] = _mm256_fmadd_ps(_mm256_loadu_ps(x + i + 8), _mm256_loadu_ps(y + i + 8), sums[1]);
  }
  const __m256 both = _mm256_add_ps(sums[0], sums[1]);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  float total = _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  for (; i < d; ++i) total += x[i] * y[i];
  return total;
}

#define SPARSE_JAX_BY_FMA(call) \
  if (HasFma()) return call

#else
#define SPARSE_JAX_BY_FMA(call)
#endif

// Whether this beats products in float32 on this machine: the plain forms don't.
inline bool FastPartition() {
#ifdef SPARSE_JAX_MULTIVERSION
  return HasFma();
#else
  return false;
#endif
}

// sums[j, r] = query j times row r, of a tile of queries and the kLanes rows from r on of a panel.
inline void TileProducts(const int16_t* queries, const int16_t* rows, int64_t pairs,
                         int32_t* sums) {
  SPARSE_JAX_BY_FMA(TileProductsFma(queries, rows, pairs, sums));
  int32_t found[kTileQueries][kLanes] = {};
  for (int64_t i = 0; i < pairs; ++i, queries += kTileQueries * 2, rows += kLanes * 2) {
    for (int64_t j = 0; j < kTileQueries; ++j) {
      const int32_t a = queries[2 * j], b = queries[2 * j + 1];
      for (int64_t r = 0; r < kLanes; ++r) found[j][r] += a * rows[2 * r] + b * rows[2 * r + 1];
    }
  }
  for (int64_t j = 0; j < kTileQueries; ++j) {
    std::memcpy(sums + j * kPanelRows, found[j], sizeof found[j]);
  }
}

// Logits of a panel, times log2(e), from sums of products; returns the largest that is no NaN.
inline float PanelLogits(const int32_t* sums, const float* steps, const float* starts, float step,
                         float* logits) {
  SPARSE_JAX_BY_FMA(PanelLogitsFma(sums, steps, starts, step, logits));
  float most = kLowest;
  for (int64_t i = 0; i < kPanelRows; ++i) {
    logits[i] = static_cast<float>(sums[i]) * (steps[i] * step) + starts[i];
    most = logits[i] > most ? logits[i] : most;
  }
  return most;
}

// The sum over a panel of 2^(x - most).
inline float PanelSum(const float* logits, float most) {
  SPARSE_JAX_BY_FMA(PanelSumFma(logits, most));
  float sums[kLanes] = {};
  for (int64_t i = 0; i < kPanelRows; ++i) {
    const float x = logits[i] - most;
    const float kept = x < kLeastPower ? kLeastPower : x;
    const float shifted = kept + kWhole;
    const float r = kept - (shifted - kWhole);
    float p = kPowers[5];
    for (int power = 4; power >= 0; --power) p = p * r + kPowers[power];
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    sums[i % kLanes] += p * scale;
  }
  float total = 0;
  for (float sum : sums) total += sum;
  return total;
}

// Bit i: whether logit i is above the bar.
inline uint64_t PanelAbove(const float* logits, float bar) {
  SPARSE_JAX_BY_FMA(PanelAboveFma(logits, bar));
  uint64_t found = 0;
  for (int64_t i = 0; i < kPanelRows; ++i) found |= static_cast<uint64_t>(logits[i] > bar) << i;
  return found;
}

// x . y of d coordinates.
inline float Dot(const float* x, const float* y, int64_t d) {
  SPARSE_JAX_BY_FMA(DotFma(x, y, d));
  float sums[kLanes] = {};
  for (int64_t i = 0; i < d; ++i) sums[i % kLanes] += x[i] * y[i];
  float total = 0;
  for (float sum : sums) total += sum;
  return total;
}

}  // namespace sparse_jax
