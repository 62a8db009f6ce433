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

constexpr int64_t kTileRows = 6;   // 6 rows by 16 queries: 12 of the 16 registers of AVX2
constexpr int64_t kSlabRows = 48;  // rows that stay in the L1 cache while all queries pass

// Queries in groups of `kLanes`, coordinate by coordinate: [groups, d, kLanes], zeros behind the
// last query. So a row meets 16 queries with no sum across a register, and the score of a row and
// a query is one sum in the order of the coordinates, whatever the batch.
inline std::vector<float> Interleave(const float* queries, int64_t n, int64_t d) {
  const int64_t groups = (n + kLanes - 1) / kLanes;
  std::vector<float> out(static_cast<size_t>(groups * d * kLanes), 0.0f);
  for (int64_t b = 0; b < n; ++b) {
    float* group = out.data() + (b / kLanes) * d * kLanes + b % kLanes;
    for (int64_t i = 0; i < d; ++i) group[i * kLanes] = queries[b * d + i];
  }
  return out;
}

template <int Parts>
SPARSE_JAX_INLINE void TileLanes(const float* rows, const float* group, int64_t d, float* out) {
  using Floats = typename Lanes<Parts>::Floats;
  constexpr int64_t kPart = kLanes / Parts;
  Floats sums[kTileRows][Parts], q[Parts];
  for (auto& row : sums) {
    for (Floats& sum : row) sum = Floats{};
  }
  for (int64_t i = 0; i < d; ++i) {
    for (int part = 0; part < Parts; ++part) LoadLanes(group + i * kLanes + part * kPart, q + part);
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int part = 0; part < Parts; ++part) sums[r][part] += rows[r * d + i] * q[part];
    }
  }
  for (int64_t r = 0; r < kTileRows; ++r) {
    for (int part = 0; part < Parts; ++part) {
      StoreLanes(out + r * kLanes + part * kPart, sums[r][part]);
    }
  }
}

// out[r, j] = rows[r] . query j of the group, for 6 rows.
SPARSE_JAX_BY_LANES(void, Tile, (const float* rows, const float* group, int64_t d, float* out),
                    (rows, group, d, out))

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

// For `ScanMany` where a score is w.x + b alone.
struct NoRest {
  const float* operator()(int64_t, int64_t, int64_t) const { return nullptr; }
};

// Offers rows [begin, end) to the best of each of n queries, interleaved as above. What scores have
// beside w.x + b is rest(g, slab, slab_end) [rows of the slab, kLanes] for group g, or null; it is
// called once for each slab and group, both ascending.
template <typename W, typename Rest>
inline void ScanMany(const std::vector<float>& interleaved, int64_t n, const W* weights,
                     const float* bias, int64_t d, int64_t begin, int64_t end, Rest&& rest,
                     std::vector<TopK>* best) {
  const int64_t groups = (n + kLanes - 1) / kLanes;
  std::vector<float> floors(static_cast<size_t>(groups * kLanes),
                            std::numeric_limits<float>::infinity());
  for (int64_t b = 0; b < n; ++b) floors[static_cast<size_t>(b)] = (*best)[b].floor();
  std::vector<float> last(static_cast<size_t>(kTileRows * d)), widened;
  float scores[kTileRows * kLanes];
  for (int64_t slab = begin; slab < end; slab += kSlabRows) {
    const int64_t slab_end = std::min(end, slab + kSlabRows);
    const float* from = AsFloats(weights + slab * d, (slab_end - slab) * d, &widened);
    for (int64_t g = 0; g < groups; ++g) {
      const float* group = interleaved.data() + g * d * kLanes;
      const float* more = rest(g, slab, slab_end);
      float* floor = floors.data() + g * kLanes;
      for (int64_t row = slab; row < slab_end; row += kTileRows) {
        const int64_t rows = std::min(kTileRows, slab_end - row);
        const float* tile = from + (row - slab) * d;
        if (rows < kTileRows) {  // never read behind the last row
          std::fill(last.begin(), last.end(), 0.0f);
          std::copy_n(tile, rows * d, last.data());
          tile = last.data();
        }
        Tile(tile, group, d, scores);
        for (int64_t r = 0; r < rows; ++r) {
          float* score = scores + r * kLanes;
          for (int64_t j = 0; j < kLanes; ++j) score[j] += bias[row + r];
          if (more) {
            for (int64_t j = 0; j < kLanes; ++j) score[j] += more[(row - slab + r) * kLanes + j];
          }
          int some = 0;
          for (int64_t j = 0; j < kLanes; ++j) some |= score[j] >= floor[j];
          if (!some) continue;
          for (int64_t j = 0; j < kLanes; ++j) {
            if (!(score[j] >= floor[j])) continue;
            TopK& of = (*best)[static_cast<size_t>(g * kLanes + j)];
            of.Offer(score[j], static_cast<int32_t>(row + r));
            floor[j] = of.floor();
          }
        }
      }
    }
  }
}

}  // namespace sparse_jax
