// Tables of bfloat16 words: rows read as float32, sums written back rounded at random.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse_jax/common.h"

namespace sparse_jax {

inline float Widen(uint16_t word) {
  const uint32_t bits = static_cast<uint32_t>(word) << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// Up or down with odds that make the mean x, for uniform noise below 2^16. What isn't finite stays so.
inline uint16_t RoundWith(float x, uint32_t noise) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint32_t size = bits & 0x7fffffffu;
  const uint32_t quiet = size > 0x7f800000u ? 0x40u : 0u;  // a NaN's payload may lie below the cut
  const uint32_t kept = (bits >> 16) | quiet;
  return static_cast<uint16_t>(size >= 0x7f800000u ? kept : (bits + noise) >> 16);
}

// To the nearest, ties to even, as XLA converts. A NaN stays one.
SPARSE_JAX_CLONES static inline void RoundRow(const float* __restrict__ from, int64_t d,
                                              uint16_t* __restrict__ to) {
  for (int64_t i = 0; i < d; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, from + i, sizeof bits);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to[i] = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : nearest);
  }
}

SPARSE_JAX_CLONES static inline void WidenRow(const uint16_t* __restrict__ from, int64_t d,
                                              float* __restrict__ to) {
  for (int64_t i = 0; i < d; ++i) to[i] = Widen(from[i]);
}

// The noise of a place is a hash of (seed, row, place).
SPARSE_JAX_CLONES static inline void AddRow(uint16_t* __restrict__ to, const float* __restrict__ row,
                                            int64_t d, uint32_t salt) {
  for (int64_t i = 0; i < d; ++i) {
    const uint32_t noise = Mix(static_cast<uint32_t>(i) ^ salt) >> 16;
    to[i] = RoundWith(Widen(to[i]) + row[i], noise);
  }
}

// For code that takes either kind of table: the numbers themselves, or widened into `space`.
inline float Widen(float x) { return x; }
inline const float* AsFloats(const float* from, int64_t, std::vector<float>*) { return from; }
inline const float* AsFloats(const uint16_t* from, int64_t n, std::vector<float>* space) {
  space->resize(static_cast<size_t>(n));
  WidenRow(from, n, space->data());
  return space->data();
}

// Calls row(i, id) for i in [begin, end), id = -1 where ids[i] is out of range; rows of the table are
// fetched some ahead.
template <typename Row>
void EachRow(const int32_t* ids, int64_t begin, int64_t end, int64_t num_rows, int64_t d,
             const uint16_t* table, Row&& row) {
  constexpr int64_t kAhead = 8;
  auto valid = [&](int64_t i) { return ids[i] >= 0 && ids[i] < num_rows; };
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end && valid(i + kAhead)) {
      Prefetch(table + ids[i + kAhead] * d, d * static_cast<int64_t>(sizeof(uint16_t)));
    }
    row(i, valid(i) ? static_cast<int64_t>(ids[i]) : -1);
  }
}

// out[i] = table[ids[i]] as float32 for i in [begin, end); zeros where the id is out of range.
inline void TakeBf16(const int32_t* ids, int64_t begin, int64_t end, int64_t num_rows, int64_t d,
                     const uint16_t* table, float* out) {
  EachRow(ids, begin, end, num_rows, d, table, [=](int64_t i, int64_t id) {
    float* to = out + i * d;
    if (id >= 0) return WidenRow(table + id * d, d, to);
    for (int64_t k = 0; k < d; ++k) to[k] = 0.0f;
  });
}

// table[ids[i]] += rows[i], rounded, for i in [begin, end); distinct ids, those out of range are
// padding.
inline void AddBf16(const int32_t* ids, int64_t begin, int64_t end, int64_t num_rows, int64_t d,
                    uint32_t seed, const float* rows, uint16_t* table) {
  EachRow(ids, begin, end, num_rows, d, table, [=](int64_t i, int64_t id) {
    if (id >= 0) AddRow(table + id * d, rows + i * d, d, Salt(seed, static_cast<uint32_t>(id)));
  });
}

}  // namespace sparse_jax
