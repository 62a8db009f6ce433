// Rows of a table and their ids: distinct ids, the order of ids, sums into rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse_jax/common.h"

namespace sparse_jax {

inline int64_t PopCount(uint64_t word) { return __builtin_popcountll(word); }

// Sorted distinct ids in [0, num_rows), -1 behind the last; inverse[i] is the place of ids[i], or
// -1 for padding, ids out of range and ids that found no place. Returns the number of distinct ids,
// which exceeds `size` when some found none. O(n + num_rows / 64).
inline int32_t UniqueIds(const int32_t* ids, int64_t n, int64_t num_rows, int64_t size,
                         int32_t* unique, int32_t* inverse) {
  const size_t words = static_cast<size_t>((num_rows + 63) / 64);
  std::vector<uint64_t> present(words, 0);
  std::vector<int32_t> rank(words, 0);
  auto in_range = [num_rows](int32_t id) { return id >= 0 && id < num_rows; };
  for (int64_t i = 0; i < n; ++i) {
    if (in_range(ids[i])) present[static_cast<size_t>(ids[i] >> 6)] |= 1ull << (ids[i] & 63);
  }
  int32_t count = 0;
  for (size_t word = 0; word < words; ++word) {
    rank[word] = count;
    for (uint64_t bits = present[word]; bits; bits &= bits - 1) {
      if (count < size) {
        unique[count] = static_cast<int32_t>(word * 64) + __builtin_ctzll(bits);
      }
      ++count;
    }
  }
  std::fill(unique + std::min<int64_t>(count, size), unique + size, -1);
  for (int64_t i = 0; i < n; ++i) {
    inverse[i] = -1;
    if (!in_range(ids[i])) continue;
    const size_t word = static_cast<size_t>(ids[i] >> 6);
    const uint64_t below = present[word] & ((1ull << (ids[i] & 63)) - 1);
    const int64_t place = rank[word] + PopCount(below);
    if (place < size) inverse[i] = static_cast<int32_t>(place);
  }
  return count;
}

// out[i] += weight * row[i].
SPARSE_JAX_CLONES static void AddScaled(float* out, const float* row, float weight, int64_t d) {
  for (int64_t i = 0; i < d; ++i) out[i] += weight * row[i];
}

// table[ids[i]] += rows[i] for i in [begin, end); distinct ids, those out of range are padding.
inline void AddRows(const int32_t* ids, int64_t begin, int64_t end, int64_t num_rows, int64_t d,
                    const float* rows, float* table) {
  constexpr int64_t kAhead = 8;
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end && ids[i + kAhead] >= 0 && ids[i + kAhead] < num_rows) {
      Prefetch(table + ids[i + kAhead] * d, d * static_cast<int64_t>(sizeof(float)));
    }
    if (ids[i] < 0 || ids[i] >= num_rows) continue;
    AddScaled(table + ids[i] * d, rows + i * d, 1.0f, d);
  }
}

// rows[c] = the first d values of column c of columns [d + 1, n], last[c] = the one behind them, for
// c in [begin, end). A cache line's worth of columns at a time, so that each line is read once.
inline void SplitColumns(const float* columns, int64_t n, int64_t d, int64_t begin, int64_t end,
                         float* rows, float* last) {
  constexpr int64_t kAtOnce = 16;
  for (int64_t first = begin; first < end; first += kAtOnce) {
    const int64_t count = std::min(kAtOnce, end - first);
    for (int64_t i = 0; i < d; ++i) {
      const float* from = columns + i * n + first;
      float* to = rows + first * d + i;
      for (int64_t c = 0; c < count; ++c) to[c * d] = from[c];
    }
    std::copy_n(columns + d * n + first, count, last + first);
  }
}

// The entries in order of position, stable: entry order[k] for k in [starts[p], starts[p + 1]).
struct ByPosition {
  std::vector<int32_t> starts, order;
};

inline ByPosition SortByPosition(const int32_t* positions, int64_t entries, int64_t num_rows) {
  ByPosition sorted;
  sorted.starts.assign(static_cast<size_t>(num_rows) + 1, 0);
  auto in_range = [num_rows](int32_t p) { return p >= 0 && p < num_rows; };
  for (int64_t e = 0; e < entries; ++e) {
    if (in_range(positions[e])) ++sorted.starts[static_cast<size_t>(positions[e]) + 1];
  }
  for (size_t p = 0; p < static_cast<size_t>(num_rows); ++p) {
    sorted.starts[p + 1] += sorted.starts[p];
  }
  sorted.order.resize(static_cast<size_t>(sorted.starts.back()));
  std::vector<int32_t> next(sorted.starts.begin(), sorted.starts.end() - 1);
  for (int64_t e = 0; e < entries; ++e) {
    if (!in_range(positions[e])) continue;
    sorted.order[static_cast<size_t>(next[static_cast<size_t>(positions[e])]++)] =
        static_cast<int32_t>(e);
  }
  return sorted;
}

}  // namespace sparse_jax
