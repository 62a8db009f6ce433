// Exact top-k of inner products over all rows, without an array of all scores. Rows are float32, or
// bfloat16 words, which count as the float32 numbers they stand for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "sparse_jax/bf16.h"
#include "sparse_jax/common.h"
#include "sparse_jax/lanes.h"

namespace sparse_jax {

// The best `k` of what was offered: larger scores first, equal ones in order of id. -inf and NaN
// never enter. The order is total, so the result does not depend on the order of the offers.
class TopK {
 public:
  explicit TopK(int64_t k) : k_(k) {}

  // No score below this one can enter any more.
  float floor() const {
    return Full() ? entries_.front().score : -std::numeric_limits<float>::infinity();
  }

  void Offer(float score, int32_t id) {
    const Entry entry{score, id};
    if (!(score > -std::numeric_limits<float>::infinity())) return;
    if (Full()) {
      if (!Better(entry, entries_.front())) return;
      std::pop_heap(entries_.begin(), entries_.end(), Better);
      entries_.back() = entry;
    } else {
      entries_.push_back(entry);
    }
    std::push_heap(entries_.begin(), entries_.end(), Better);
  }

  void Merge(const TopK& other) {
    for (const Entry& e : other.entries_) Offer(e.score, e.id);
  }

  // Writes k scores and ids, -inf and -1 behind the last, and forgets what was offered.
  void Write(float* scores, int32_t* ids) {
    std::sort_heap(entries_.begin(), entries_.end(), Better);
    for (int64_t i = 0; i < k_; ++i) {
      const bool held = i < static_cast<int64_t>(entries_.size());
      scores[i] = held ? entries_[static_cast<size_t>(i)].score
                       : -std::numeric_limits<float>::infinity();
      ids[i] = held ? entries_[static_cast<size_t>(i)].id : -1;
    }
    entries_.clear();
  }

 private:
  struct Entry {
    float score;
    int32_t id;
  };
  static bool Better(const Entry& a, const Entry& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
  }
  bool Full() const { return static_cast<int64_t>(entries_.size()) == k_; }

  int64_t k_;
  std::vector<Entry> entries_;  // a heap, the worst first
};

// One query: 16 partial sums over the coordinates, added in pairs at the end. Its score of a row
// differs from that of `Tile` in the last bits.
template <typename W>
SPARSE_JAX_INLINE float Dot(const W* row, const float* query, int64_t d) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) sums[j] += Widen(row[i + j]) * query[i + j];
  }
  for (int64_t j = 0; i + j < d; ++j) sums[j] += Widen(row[i + j]) * query[i + j];
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

// Offers rows [begin, end) to the query's best; row r scores rest[r - begin] more, where given.
template <typename W>
SPARSE_JAX_CLONES static inline void ScanOne(const float* query, const W* weights,
                                             const float* bias, int64_t d, int64_t begin,
                                             int64_t end, const float* rest, TopK* best) {
  float floor = best->floor();
  for (int64_t row = begin; row < end; ++row) {
    float score = Dot(weights + row * d, query, d) + bias[row];
    if (rest) score += rest[row - begin];
    if (score < floor) continue;
    best->Offer(score, static_cast<int32_t>(row));
    floor = best->floor();
  }
}

// Offers the rows `ids` (out of range: padding) to the query's best. The rows lie anywhere, so they
// are fetched a few ahead.
template <typename W>
SPARSE_JAX_CLONES static inline void ScanAmong(const float* query, const W* weights,
                                               const float* bias, int64_t num_rows, int64_t d,
                                               const int32_t* ids, int64_t n, TopK* best) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(W);
  auto valid = [num_rows](int32_t id) { return id >= 0 && id < num_rows; };
  for (int64_t i = 0; i < n; ++i) {
    if (i + kAhead < n && valid(ids[i + kAhead])) {
      const W* next = weights + ids[i + kAhead] * d;
      for (int64_t j = 0; j < d; j += kLine) __builtin_prefetch(next + j);
    }
    if (valid(ids[i])) best->Offer(Dot(weights + ids[i] * d, query, d) + bias[ids[i]], ids[i]);
  }
}

}  // namespace sparse_jax
