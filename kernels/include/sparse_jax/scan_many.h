// Exact top-k of a batch of queries. Rows get float32 scores six by sixteen queries, each one sum
// in the order of the coordinates; with the bounds of `screen.h`, only rows that may be among the
// best.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "sparse_jax/bf16.h"
#include "sparse_jax/common.h"
#include "sparse_jax/lanes.h"
#include "sparse_jax/screen.h"
#include "sparse_jax/topk.h"

namespace sparse_jax {

constexpr int64_t kTileRows = 6;  // 6 rows by 16 queries: 12 of the 16 registers of AVX2

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

// Adds bias and `more`, which may be null, to the products of `count` rows. Bit r of the result:
// whether any score of row r reaches its floor.
template <int Parts>
SPARSE_JAX_INLINE uint32_t FinishLanes(float* scores, const float* bias, const float* more,
                                       const float* floors, int64_t count) {
  constexpr int64_t kPart = kLanes / Parts;
  typename Lanes<Parts>::Floats floor[Parts], score, beside;
  for (int part = 0; part < Parts; ++part) LoadLanes(floors + part * kPart, floor + part);
  uint32_t reached = 0;
  for (int64_t r = 0; r < count; ++r) {
    typename Lanes<Parts>::Ints some{};
    for (int part = 0; part < Parts; ++part) {
      const int64_t at = r * kLanes + part * kPart;
      LoadLanes(scores + at, &score);
      score += bias[r];
      if (more) {
        LoadLanes(more + at, &beside);
        score += beside;
      }
      StoreLanes(scores + at, score);
      some |= score >= floor[part];
    }
    uint64_t words[kPart / 2], any = 0;
    std::memcpy(words, &some, sizeof words);
    for (const uint64_t word : words) any |= word;
    reached |= static_cast<uint32_t>(any != 0) << r;
  }
  return reached;
}

SPARSE_JAX_BY_LANES(uint32_t, Finish,
                    (float* scores, const float* bias, const float* more, const float* floors,
                     int64_t count),
                    (scores, bias, more, floors, count))

// Rows of a task that looks for the k best. A task of little more than k would sort all it has, but
// each thread gets one.
inline int64_t RowsOfTask(int64_t rows, int64_t k, int64_t threads) {
  constexpr int64_t kTasks = 32, kRowsOfEach = 8;
  const auto shared_by = [rows](int64_t tasks) { return (rows + tasks - 1) / tasks; };
  const int64_t worthwhile = std::min(kRowsOfEach * k, shared_by(std::max<int64_t>(threads, 1)));
  return std::max({kSlabRows, shared_by(kTasks), worthwhile});
}

// For `ScanMany` where a score is w.x + b alone.
struct NoRest {
  const float* operator()(int64_t, int64_t, int64_t) const { return nullptr; }
};

// Scores below which nothing can be among the k best of a query: the largest k-th best that any
// task has met. They only leave work out, so what is found doesn't depend on when they rise.
class Floors {
 public:
  explicit Floors(int64_t n) : floors_(static_cast<size_t>((n + kLanes - 1) / kLanes * kLanes)) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < floors_.size(); ++i) {
      floors_[i].store(static_cast<int64_t>(i) < n ? -kInf : kInf, std::memory_order_relaxed);
    }
  }

  // Those of group g.
  void Load(int64_t g, float* to) const {
    const std::atomic<float>* from = floors_.data() + g * kLanes;
    for (int64_t j = 0; j < kLanes; ++j) to[j] = from[j].load(std::memory_order_relaxed);
  }

  // To those of `floors` that are higher.
  void Raise(int64_t g, const float* floors) {
    std::atomic<float>* at = floors_.data() + g * kLanes;
    for (int64_t j = 0; j < kLanes; ++j) {
      float held = at[j].load(std::memory_order_relaxed);
      while (held < floors[j] &&
             !at[j].compare_exchange_weak(held, floors[j], std::memory_order_relaxed)) {
      }
    }
  }

 private:
  std::vector<std::atomic<float>> floors_;
};

// What all tasks share of n queries.
struct ManyQueries {
  // For few of either, making bytes takes as long as the scores that they leave out.
  static constexpr int64_t kLeast = 17, kLeastRows = 1024;

  ManyQueries(const float* queries, int64_t count, int64_t size, int64_t num_rows)
      : n(count),
        d(size),
        interleaved(Interleave(queries, n, d)),
        floors(n),
        screened(n >= kLeast && num_rows >= kLeastRows && CanScreen(d)) {
    if (screened) bytes.Fill(queries, n, d);
  }

  int64_t groups() const { return (n + kLanes - 1) / kLanes; }

  int64_t n, d;
  std::vector<float> interleaved;
  Floors floors;
  bool screened;
  ByteQueries bytes;
};

// One task of the scan.
template <typename W>
class ManyScan {
 public:
  ManyScan(ManyQueries* queries, const W* weights, const float* bias, std::vector<TopK>* best)
      : queries_(*queries),
        weights_(weights),
        bias_(bias),
        best_(*best),
        d_(queries_.d),
        tile_(static_cast<size_t>(kTileRows * d_)),
        floors_(static_cast<size_t>(queries_.groups() * kLanes)),
        codes_(queries_.screened ? d_ : 0),
        waiting_(static_cast<size_t>(queries_.screened ? queries_.groups() : 0)) {}

  template <typename Rest>
  void Run(int64_t begin, int64_t end, Rest&& rest) {
    const int64_t groups = queries_.groups();
    int64_t plain = 0, next_plain = kLeastPlain;  // slabs that come without bounds
    for (int64_t slab = begin; slab < end; slab += kSlabRows) {
      const int64_t n = std::min(end - slab, kSlabRows);
      const int64_t ahead = std::min(end - slab - n, kSlabRows) * d_;  // words of the next slab
      const W* next = weights_ + (slab + n) * d_;
      const float* rows = AsFloats(weights_ + slab * d_, n * d_, &widened_);
      const bool screened = queries_.screened && plain == 0;
      if (screened) codes_.Fill(rows, bias_ + slab, n);
      bool helps = screened;
      int64_t scored = 0;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t from = ahead * g / groups, to = ahead * (g + 1) / groups;
        Prefetch(next + from, (to - from) * static_cast<int64_t>(sizeof(W)));
        const float* more = rest(g, slab, slab + n);
        queries_.floors.Load(g, FloorsOf(g));
        if (helps) {
          scored += Screened(g, slab, n, more);
          const int64_t seen = g + 1;
          helps = 2 * scored <= n * seen || (seen < groups && seen < kEnoughGroups);
        } else {
          All(g, slab, n, rows, more);
        }
        queries_.floors.Raise(g, FloorsOf(g));
      }
      if (plain > 0) --plain;
      if (!screened) continue;
      plain = helps ? 0 : next_plain;
      next_plain = helps ? kLeastPlain : std::min(2 * next_plain, kMostPlain);
    }
    for (int64_t g = 0; g < static_cast<int64_t>(waiting_.size()); ++g) Flush(g);
  }

 private:
  // Bounds that leave out less than half of the rows for some groups don't help. The next slabs
  // come without, twice as many each time.
  static constexpr int64_t kEnoughGroups = 4, kLeastPlain = 4, kMostPlain = 64;

  // Rows of a group that get their scores together.
  struct Waiting {
    float more[kTileRows * kLanes];
    int32_t ids[kTileRows];
    bool has_more = false;
    int64_t count = 0;
  };

  float* FloorsOf(int64_t g) { return floors_.data() + g * kLanes; }

  void All(int64_t g, int64_t slab, int64_t n, const float* rows, const float* more) {
    for (int64_t at = 0; at < n; at += kTileRows) {
      const int64_t count = std::min(kTileRows, n - at);
      const float* tile = rows + at * d_;
      if (count < kTileRows) {  // never read behind the last row
        std::fill(tile_.begin(), tile_.end(), 0.0f);
        std::copy_n(tile, count * d_, tile_.data());
        tile = tile_.data();
      }
      Offer(g, tile, count, more ? more + at * kLanes : nullptr,
            [=](int64_t r) { return static_cast<int32_t>(slab + at + r); });
    }
  }

  // How many rows of the slab may be among the best of a query of the group.
  int64_t Screened(int64_t g, int64_t slab, int64_t n, const float* more) {
    Waiting& some = waiting_[static_cast<size_t>(g)];
    uint16_t masks[kScreenRows];
    int64_t kept = 0;
    for (int64_t at = 0; at < n; at += kScreenRows) {
      codes_.Screen(queries_.bytes, g, at, n, FloorsOf(g), more, masks);
      const int64_t count = std::min(kScreenRows, n - at);
      for (int64_t r = 0; r < count; ++r) {
        if (masks[r] == 0) continue;
        ++kept;
        some.has_more = more != nullptr;
        if (more) std::copy_n(more + (at + r) * kLanes, kLanes, some.more + some.count * kLanes);
        some.ids[some.count++] = static_cast<int32_t>(slab + at + r);
        if (some.count == kTileRows) Flush(g);
      }
    }
    return kept;
  }

  void Flush(int64_t g) {
    Waiting& some = waiting_[static_cast<size_t>(g)];
    if (some.count == 0) return;
    for (int64_t r = 0; r < some.count; ++r) {
      const float* row = AsFloats(weights_ + some.ids[r] * d_, d_, &row_);
      std::copy_n(row, d_, tile_.data() + r * d_);
    }
    Offer(g, tile_.data(), some.count, some.has_more ? some.more : nullptr,
          [&](int64_t r) { return some.ids[r]; });
    some.count = 0;
  }

  // Offers `count` rows of a tile, whose ids are id(r).
  template <typename Id>
  void Offer(int64_t g, const float* tile, int64_t count, const float* more, Id&& id) {
    float scores[kTileRows * kLanes], bias[kTileRows];
    float* floors = FloorsOf(g);
    for (int64_t r = 0; r < count; ++r) bias[r] = bias_[id(r)];
    Tile(tile, queries_.interleaved.data() + g * d_ * kLanes, d_, scores);
    // The floor of a lane behind the last query is infinite, and a score may be, too.
    const int64_t lanes = std::min(kLanes, queries_.n - g * kLanes);
    const uint32_t reached = Finish(scores, bias, more, floors, count);
    for (int64_t r = 0; r < count; ++r) {
      if ((reached >> r & 1) == 0) continue;
      for (int64_t j = 0; j < kLanes; ++j) {
        const float score = scores[r * kLanes + j];
        if (!(score >= floors[j]) || j >= lanes) continue;
        TopK& best = best_[static_cast<size_t>(g * kLanes + j)];
        best.Offer(score, id(r));
        floors[j] = std::max(floors[j], best.floor());
      }
    }
  }

  ManyQueries& queries_;
  const W* weights_;
  const float* bias_;
  std::vector<TopK>& best_;
  int64_t d_;
  std::vector<float> widened_, row_, tile_;
  std::vector<float> floors_;  // [groups, kLanes], as high as known here
  ByteRows codes_;
  std::vector<Waiting> waiting_;  // by group
};

// Offers rows [begin, end) to the best of each query. What scores have beside w.x + b is
// rest(g, slab, slab_end) [rows of the slab, kLanes] for group g, or null; it is called once for
// each slab and group, both ascending.
template <typename W, typename Rest>
inline void ScanMany(ManyQueries* queries, const W* weights, const float* bias, int64_t begin,
                     int64_t end, Rest&& rest, std::vector<TopK>* best) {
  ManyScan<W>(queries, weights, bias, best).Run(begin, end, rest);
}

}  // namespace sparse_jax
