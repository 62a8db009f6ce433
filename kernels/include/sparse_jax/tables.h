// LSH tables with buckets of fixed capacity.
//
// The state is a pure function of (codes, stamps, seed): a bucket holds the best `capacity` of its
// members, best first, where better means
//   reservoir: a smaller seeded priority of (table, id), so a bucket is a uniform sample without
//              replacement of its members, whatever the order they came in (bottom-k sampling);
//   fifo:      a later stamp, so a bucket keeps its newest members.
// Because nothing else enters, an update equals a rebuild, and threads can't change the result.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "sparse_jax/common.h"

namespace sparse_jax {

constexpr int32_t kNone = -1;

enum class Policy : int32_t { kReservoir = 0, kFifo = 1 };

struct TablesView {
  int32_t* buckets;  // [tables, num_buckets, capacity], kNone behind the last member
  int32_t* sizes;    // [tables, num_buckets], members, those that found no place included
  int32_t* codes;    // [tables, num_rows], kNone where the row is absent
  int32_t* stamps;   // [num_rows], larger = inserted later
  int64_t tables, num_buckets, capacity, num_rows;
  uint32_t seed;
  Policy policy;

  int32_t* bucket(int64_t table, int64_t code) const {
    return buckets + (table * num_buckets + code) * capacity;
  }
  int32_t& size(int64_t table, int64_t code) const { return sizes[table * num_buckets + code]; }
  int32_t& code(int64_t table, int64_t id) const { return codes[table * num_rows + id]; }

  // The state may come from a damaged file: what it holds is never trusted as an address.
  bool Holds(int32_t code) const { return code >= 0 && code < num_buckets; }
  bool HoldsRow(int32_t id) const { return id >= 0 && id < num_rows; }
  int32_t Stamp(int32_t id) const { return HoldsRow(id) ? stamps[id] : INT32_MIN; }

  bool Better(int64_t table, int32_t a, int32_t b) const {
    if (policy == Policy::kFifo) {
      if (Stamp(a) != Stamp(b)) return Stamp(a) > Stamp(b);
      return a > b;
    }
    const uint32_t pa = Priority(seed, static_cast<uint32_t>(table), static_cast<uint32_t>(a));
    const uint32_t pb = Priority(seed, static_cast<uint32_t>(table), static_cast<uint32_t>(b));
    return pa != pb ? pa < pb : a < b;
  }
};

// Puts `id` in its place in a bucket, or leaves it out when `capacity` better ones are there.
inline void Place(const TablesView& t, int64_t table, int32_t code, int32_t id) {
  int32_t* bucket = t.bucket(table, code);
  int64_t last = t.capacity - 1;
  if (bucket[last] != kNone && !t.Better(table, id, bucket[last])) return;
  int64_t i = last;
  while (i > 0 && (bucket[i - 1] == kNone || t.Better(table, id, bucket[i - 1]))) {
    bucket[i] = bucket[i - 1];
    --i;
  }
  bucket[i] = id;
}

// Takes `id` out of a bucket; false when it had no place there.
inline bool Displace(const TablesView& t, int64_t table, int32_t code, int32_t id) {
  int32_t* bucket = t.bucket(table, code);
  int32_t* end = bucket + t.capacity;
  int32_t* at = std::find(bucket, end, id);
  if (at == end) return false;
  std::copy(at + 1, end, at);
  end[-1] = kNone;
  return true;
}

// Sorts keys whose upper halves are spread evenly, as hashes are: counted into as many bins as
// there are keys, in order, and then put right within each bin.
inline void SortHashed(uint64_t* keys, int64_t n, std::vector<uint64_t>* spare,
                       std::vector<int32_t>* bins) {
  const auto count = static_cast<size_t>(n);
  auto bin = [count](uint64_t key) { return static_cast<size_t>((key >> 32) * count >> 32); };
  if (n > 16) {
    spare->assign(keys, keys + n);
    bins->assign(count + 1, 0);
    for (uint64_t key : *spare) ++(*bins)[bin(key) + 1];
    for (size_t i = 0; i < count; ++i) (*bins)[i + 1] += (*bins)[i];
    for (uint64_t key : *spare) keys[(*bins)[bin(key)]++] = key;
  }
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t key = keys[i];
    int64_t at = i;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

// Fills buckets of one table from its codes and sizes: all of them, or those that `only` marks. The
// ids are sorted by bucket, by counting, and those of a bucket by rank: no bucket is searched for a
// place. One pass over the table's codes.
inline void FillBuckets(const TablesView& t, int64_t table, const std::vector<bool>* only) {
  const int32_t* sizes = &t.size(table, 0);
  std::vector<int32_t> next(static_cast<size_t>(t.num_buckets));
  auto wanted = [only](int64_t code) { return !only || (*only)[static_cast<size_t>(code)]; };
  int32_t members = 0;
  for (int64_t code = 0; code < t.num_buckets; ++code) {
    next[static_cast<size_t>(code)] = members;
    if (wanted(code)) members += sizes[code];
  }
  const bool fifo = t.policy == Policy::kFifo;
  const uint32_t salt = Salt(t.seed, static_cast<uint32_t>(table));
  std::vector<uint64_t> keys(static_cast<size_t>(members)), spare;
  std::vector<int32_t> bins;
  for (int64_t id = 0; id < t.num_rows; ++id) {
    const int32_t code = t.code(table, id);
    if (!t.Holds(code) || !wanted(code)) continue;
    const auto low = static_cast<uint32_t>(id);
    // A smaller key is better: a later stamp, then a larger id; or a smaller priority, then id.
    const uint32_t later = ~(static_cast<uint32_t>(t.stamps[id]) ^ 0x80000000u);
    auto& place = next[static_cast<size_t>(code)];
    keys[static_cast<size_t>(place++)] = fifo ? uint64_t{later} << 32 | (0xffffffffu - low)
                                              : uint64_t{Mix(low ^ salt)} << 32 | low;
  }
  uint64_t* from = keys.data();
  for (int64_t code = 0; code < t.num_buckets; ++code) {
    if (!wanted(code)) continue;
    if (fifo) {
      std::sort(from, from + sizes[code]);
    } else {
      SortHashed(from, sizes[code], &spare, &bins);
    }
    int32_t* bucket = t.bucket(table, code);
    const int64_t kept = std::min<int64_t>(sizes[code], t.capacity);
    for (int64_t i = 0; i < kept; ++i) {
      const auto low = static_cast<uint32_t>(from[i]);
      bucket[i] = static_cast<int32_t>(fifo ? 0xffffffffu - low : low);
    }
    std::fill(bucket + kept, bucket + t.capacity, kNone);
    from += sizes[code];
  }
}

// Fills one table from its codes; codes outside [0, num_buckets) become kNone.
inline void BuildTable(const TablesView& t, int64_t table) {
  int32_t* sizes = &t.size(table, 0);
  std::fill_n(sizes, t.num_buckets, 0);
  for (int64_t id = 0; id < t.num_rows; ++id) {
    int32_t& code = t.code(table, id);
    if (!t.Holds(code)) code = kNone;
    if (code != kNone) ++sizes[code];
  }
  FillBuckets(t, table, nullptr);
}

struct Write {
  int32_t id;
  int64_t position;  // in the batch
};

// The writes of a batch that count, in order of id: the last one for each id. Refuses ids outside
// [0, num_rows) and rows with a code outside [-1, num_buckets); an id of kNone is padding.
inline std::vector<Write> ResolveWrites(const TablesView& t, const int32_t* ids,
                                        const int32_t* new_codes, int64_t n, int32_t* rejected) {
  std::vector<Write> writes;
  writes.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] == kNone) continue;
    bool valid = ids[i] >= 0 && ids[i] < t.num_rows;
    for (int64_t l = 0; valid && l < t.tables; ++l) {
      const int32_t code = new_codes[i * t.tables + l];
      valid = code >= kNone && code < t.num_buckets;
    }
    if (valid) {
      writes.push_back({ids[i], i});
    } else {
      ++*rejected;
    }
  }
  std::sort(writes.begin(), writes.end(), [](const Write& a, const Write& b) {
    return a.id != b.id ? a.id < b.id : a.position > b.position;
  });
  auto same = [](const Write& a, const Write& b) { return a.id == b.id; };
  writes.erase(std::unique(writes.begin(), writes.end(), same), writes.end());
  return writes;
}

// Applies resolved writes to one table. First all of them leave, then all of them enter: while a
// restamped id still stands at its old place, its bucket is not in order. A bucket that loses a
// member it held while others wait outside is filled anew from the codes: one pass over the table's
// codes, only when that happened.
inline void WriteTable(const TablesView& t, int64_t table, const std::vector<Write>& writes,
                       const int32_t* new_codes, bool restamped) {
  std::vector<bool> stale;
  auto is_stale = [&](int32_t code) { return !stale.empty() && stale[static_cast<size_t>(code)]; };
  auto target = [&](const Write& w) { return new_codes[w.position * t.tables + table]; };
  auto stays = [&](const Write& w) { return !restamped && t.code(table, w.id) == target(w); };
  std::vector<Write> moving;
  for (const Write& w : writes) {
    if (stays(w)) continue;
    moving.push_back(w);
    const int32_t before = t.code(table, w.id);
    if (!t.Holds(before)) continue;
    t.code(table, w.id) = kNone;
    const int32_t left = --t.size(table, before);
    if (!is_stale(before) && Displace(t, table, before, w.id) && left >= t.capacity) {
      if (stale.empty()) stale.resize(static_cast<size_t>(t.num_buckets));
      stale[static_cast<size_t>(before)] = true;
    }
  }
  for (const Write& w : moving) {
    const int32_t after = target(w);
    t.code(table, w.id) = after;
    if (after == kNone) continue;
    ++t.size(table, after);
    if (!is_stale(after)) Place(t, table, after, w.id);
  }
  if (stale.empty()) return;
  // A damaged file's sizes are not believed: those of the stale buckets are counted.
  int32_t* sizes = &t.size(table, 0);
  for (int64_t code = 0; code < t.num_buckets; ++code) {
    if (is_stale(static_cast<int32_t>(code))) sizes[code] = 0;
  }
  for (int64_t id = 0; id < t.num_rows; ++id) {
    const int32_t code = t.code(table, id);
    if (t.Holds(code) && is_stale(code)) ++sizes[code];
  }
  FillBuckets(t, table, &stale);
}

// Counts for each id in how many of a query's buckets it stands: a counter for every id there may
// be, all zero between queries. That many bytes fit a cache, where a map of the ids met costs a probe
// and a mispredicted branch each; what a query has touched is put back to zero by itself.
template <typename Count>
class CollisionCounter {
 public:
  explicit CollisionCounter(int64_t num_rows) : counts_(static_cast<size_t>(num_rows), 0) {}
  int64_t num_rows() const { return static_cast<int64_t>(counts_.size()); }

  void Restart(int64_t tables) {
    distinct_ = 0;
    repeated_.clear();
    at_least_.assign(static_cast<size_t>(tables) + 2, 0);
  }

  // Counts the ids of a bucket.
  void Add(const TablesView& t, const int32_t* bucket) {
    for (int64_t i = 0; i < t.capacity && bucket[i] != kNone; ++i) {
      if (!t.HoldsRow(bucket[i])) continue;
      const Count count = ++counts_[static_cast<size_t>(bucket[i])];
      if (count == 1) {
        ++distinct_;
      } else {
        // In a damaged table an id may stand in a bucket twice: still no address past the end.
        ++at_least_[std::min<size_t>(count, at_least_.size() - 1)];
        if (count == 2) repeated_.push_back(bucket[i]);
      }
    }
  }

  int64_t distinct() const { return distinct_; }
  // The ids that were counted twice or more, and how many were counted `count` >= 2 times or more.
  const std::vector<int32_t>& repeated() const { return repeated_; }
  int64_t at_least(int64_t count) const { return at_least_[static_cast<size_t>(count)]; }

  Count& count(int32_t id) { return counts_[static_cast<size_t>(id)]; }

 private:
  std::vector<Count> counts_;  // Count holds the number of tables: `Query`'s caller sees to it
  std::vector<int32_t> repeated_;
  std::vector<int32_t> at_least_;
  int64_t distinct_ = 0;
};

// The buckets of one query, asked for ahead of time: they lie anywhere in the tables.
inline void FindBuckets(const TablesView& t, const int32_t* codes,
                        std::vector<const int32_t*>* buckets) {
  buckets->clear();
  for (int64_t table = 0; table < t.tables; ++table) {
    if (!t.Holds(codes[table])) continue;
    buckets->push_back(t.bucket(table, codes[table]));
    Prefetch(buckets->back(), t.capacity * static_cast<int64_t>(sizeof(int32_t)));
  }
}

// Ranks the candidates of queries [begin, end): most collisions first, ties in seeded order.
// Writes `most` ids and counts a query (kNone, 0 behind the last) and how many distinct ids the
// buckets held. Codes outside [0, num_buckets) are empty buckets. The counter is of at least the
// tables' num_rows, and its type holds the number of tables.
template <typename Count>
void Query(const TablesView& t, const int32_t* query_codes, int64_t begin, int64_t end, int64_t most,
           CollisionCounter<Count>* counter, int32_t* out_ids, int32_t* out_counts,
           int32_t* out_distinct) {
  std::vector<std::pair<uint64_t, int32_t>> ranked;  // a heap: the worst on top, by larger key
  std::vector<const int32_t*> buckets, next;
  const auto room = static_cast<size_t>(most);
  const uint32_t salt = Salt(t.seed, 0xffffffffu);
  auto rank = [&](int32_t id) {
    const uint64_t fewer = 0xffffffffu - static_cast<uint32_t>(counter->count(id));
    const std::pair<uint64_t, int32_t> entry{fewer << 32 | Mix(static_cast<uint32_t>(id) ^ salt), id};
    if (ranked.size() == room) {
      if (room == 0 || ranked.front() < entry) return;
      std::pop_heap(ranked.begin(), ranked.end());
      ranked.pop_back();
    }
    ranked.push_back(entry);
    std::push_heap(ranked.begin(), ranked.end());
  };
  if (begin < end) FindBuckets(t, query_codes + begin * t.tables, &next);
  for (int64_t b = begin; b < end; ++b) {
    buckets.swap(next);
    if (b + 1 < end) FindBuckets(t, query_codes + (b + 1) * t.tables, &next);
    counter->Restart(t.tables);
    for (const int32_t* bucket : buckets) counter->Add(t, bucket);
    out_distinct[b] = static_cast<int32_t>(counter->distinct());

    // Only ids with at least `least` collisions can be among the best, and enough have as many.
    ranked.clear();
    int64_t least = 1;
    while (least < t.tables && counter->at_least(least + 1) >= std::max<int64_t>(most, 1)) ++least;
    if (least > 1) {
      for (int32_t id : counter->repeated()) {
        if (counter->count(id) >= least) rank(id);
      }
    }
    for (const int32_t* bucket : buckets) {
      for (int64_t i = 0; i < t.capacity && bucket[i] != kNone; ++i) {
        if (!t.HoldsRow(bucket[i])) continue;
        if (least == 1 && counter->count(bucket[i])) rank(bucket[i]);
        counter->count(bucket[i]) = 0;
      }
    }
    const int64_t kept = static_cast<int64_t>(ranked.size());
    std::sort_heap(ranked.begin(), ranked.end());
    for (int64_t i = 0; i < most; ++i) {
      out_ids[b * most + i] = i < kept ? ranked[static_cast<size_t>(i)].second : kNone;
      out_counts[b * most + i] =
          i < kept ? static_cast<int32_t>(0xffffffffu - (ranked[static_cast<size_t>(i)].first >> 32))
                   : 0;
    }
  }
}

}  // namespace sparse_jax
