// Distinct row ids, and the embedding bag over gathered rows.
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

// Rows lie anywhere, so each is asked for this many entries before it is added.
constexpr int kAhead = 6;

// out[i] += weight * row[i]: the one loop of both directions.
SPARSE_JAX_CLONES static void AddScaled(float* out, const float* row, float weight, int64_t d) {
  for (int64_t i = 0; i < d; ++i) out[i] += weight * row[i];
}

// out[s] = sum of weights[e] * rows[positions[e]] over the entries e of segment s, in their order,
// for s in [begin, end); entries whose position is out of range are padding. Where `sorted` says
// that segments ascend, the entries are found by bisection; otherwise all are looked at.
inline void BagForward(const float* rows, int64_t num_rows, const int32_t* positions,
                       const int32_t* segments, const float* weights, int64_t entries, bool sorted,
                       int64_t begin, int64_t end, int64_t d, float* out) {
  std::fill(out + begin * d, out + end * d, 0.0f);
  int64_t e = 0;
  if (sorted) {
    e = std::lower_bound(segments, segments + entries, static_cast<int32_t>(begin)) - segments;
  }
  for (; e < entries; ++e) {
    if (segments[e] >= end && sorted) break;
    const int64_t soon = e + kAhead;
    if (soon < entries && positions[soon] >= 0 && positions[soon] < num_rows) {
      Prefetch(rows + positions[soon] * d, d * static_cast<int64_t>(sizeof(float)));
    }
    if (segments[e] < begin || segments[e] >= end) continue;
    if (positions[e] < 0 || positions[e] >= num_rows) continue;
    AddScaled(out + segments[e] * d, rows + positions[e] * d, weights[e], d);
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

// grad_rows[p] = sum of weights[e] * grad_out[segments[e]] over the entries e at position p, in
// their order, for p in [begin, end): each row is summed by one task, so the bits are fixed.
inline void BagBackward(const float* grad_out, int64_t num_segments, const int32_t* segments,
                        const float* weights, const ByPosition& sorted, int64_t begin, int64_t end,
                        int64_t d, float* grad_rows) {
  std::fill(grad_rows + begin * d, grad_rows + end * d, 0.0f);
  for (int64_t p = begin; p < end; ++p) {
    for (int32_t k = sorted.starts[static_cast<size_t>(p)];
         k < sorted.starts[static_cast<size_t>(p) + 1]; ++k) {
      const int32_t e = sorted.order[static_cast<size_t>(k)];
      if (segments[e] < 0 || segments[e] >= num_segments) continue;
      AddScaled(grad_rows + p * d, grad_out + segments[e] * d, weights[e], d);
    }
  }
}

}  // namespace sparse_jax
