// An active set: labels, then candidates by score, then a uniform fill, without duplicates.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse_jax/common.h"

namespace sparse_jax {

// A seeded permutation of 0 ... num_rows - 1: ten Feistel rounds on a power-of-two range, walked on
// along their cycle until they fall inside.
class Permutation {
 public:
  Permutation(uint32_t seed, int64_t num_rows) : num_rows_(static_cast<uint32_t>(num_rows)) {
    int bits = 0;
    while (bits < 32 && (num_rows - 1) >> bits) ++bits;
    half_ = std::max(1, (std::max(1, bits) + 1) / 2);
    mask_ = (uint32_t{1} << half_) - 1;
    for (uint32_t turn = 0; turn < kTurns; ++turn) salts_[turn] = Salt(seed, turn + 1);
  }

  int32_t operator()(int64_t i) const {
    uint32_t x = Permute(static_cast<uint32_t>(i));
    while (x >= num_rows_) x = Permute(x);
    return static_cast<int32_t>(x);
  }

 private:
  static constexpr uint32_t kTurns = 10;

  uint32_t Permute(uint32_t x) const {
    uint32_t left = x >> half_, right = x & mask_;
    for (const uint32_t salt : salts_) {
      const uint32_t mixed = Mix(right ^ salt) & mask_;
      const uint32_t before = left;
      left = right;
      right = before ^ mixed;
    }
    return left << half_ | right;
  }

  uint32_t num_rows_, mask_, salts_[kTurns];
  int half_;
};

struct ActiveTask {
  const int32_t* labels;      // [num_labels], repeats allowed; out of range = padding
  const int32_t* candidates;  // [num_candidates], likewise
  const int32_t* scores;      // [num_candidates], added up over repeats
  uint32_t tie_seed, fill_seed;
  int64_t num_labels, num_candidates, size, num_rows;
  int32_t* ids;               // [size]
  int8_t* sources;            // [size]: 0 label, 1 candidate, 2 fill, -1 none
  int32_t* positions;         // [num_labels]: the place of each label, -1 = none
};

// Distinct ids with what is known of each, in the order they came in.
class ActiveMap {
 public:
  struct Entry {
    int32_t id, score, place;
    bool is_label;
  };

  explicit ActiveMap(int64_t most) {
    size_t slots = 16;
    while (slots < 2 * static_cast<size_t>(most)) slots *= 2;
    slots_.assign(slots, -1);
    entries_.reserve(static_cast<size_t>(most));
  }

  std::vector<Entry>& entries() { return entries_; }

  // The entry's index, or -1 where `id` has none and none is to be made.
  int32_t Find(int32_t id, bool make, bool is_label = false) {
    const size_t mask = slots_.size() - 1;
    size_t slot = Mix(static_cast<uint32_t>(id)) & mask;
    for (; slots_[slot] >= 0; slot = (slot + 1) & mask) {
      if (entries_[static_cast<size_t>(slots_[slot])].id == id) return slots_[slot];
    }
    if (!make) return -1;
    slots_[slot] = static_cast<int32_t>(entries_.size());
    entries_.push_back({id, 0, -1, is_label});
    return slots_[slot];
  }

 private:
  std::vector<int32_t> slots_;
  std::vector<Entry> entries_;
};

// Labels by id; candidates by the sum of their scores, at most 2^30, ties in seeded order; and members
// of a seeded permutation that are not in yet.
inline void MakeActiveSet(const ActiveTask& t) {
  ActiveMap map(t.num_labels + t.num_candidates);
  auto in_range = [&](int32_t id) { return id >= 0 && id < t.num_rows; };
  for (int64_t i = 0; i < t.num_labels; ++i) {
    if (in_range(t.labels[i])) map.Find(t.labels[i], true, true);
  }
  for (int64_t i = 0; i < t.num_candidates; ++i) {
    if (!in_range(t.candidates[i])) continue;
    auto& entry = map.entries()[static_cast<size_t>(map.Find(t.candidates[i], true))];
    entry.score = static_cast<int32_t>(static_cast<uint32_t>(entry.score) +
                                       static_cast<uint32_t>(t.scores[i]));
  }
  struct Ranked {
    uint64_t key;
    int32_t entry;
  };
  std::vector<Ranked> ranked;
  const uint32_t salt = Salt(t.tie_seed, 0);
  for (size_t i = 0; i < map.entries().size(); ++i) {
    const auto& e = map.entries()[i];
    const auto id = static_cast<uint32_t>(e.id);
    if (e.is_label) {
      ranked.push_back({id, static_cast<int32_t>(i)});
    } else {
      constexpr uint32_t kMost = uint32_t{1} << 30;
      const uint64_t fewer = 2 * uint64_t{kMost} - std::min(static_cast<uint32_t>(e.score), kMost);
      ranked.push_back({fewer << 32 | Mix(id ^ salt), static_cast<int32_t>(i)});
    }
  }
  const auto kept = std::min(static_cast<size_t>(t.size), ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<int64_t>(kept), ranked.end(),
                    [](const Ranked& a, const Ranked& b) { return a.key < b.key; });
  for (size_t i = 0; i < kept; ++i) {
    auto& e = map.entries()[static_cast<size_t>(ranked[i].entry)];
    e.place = static_cast<int32_t>(i);
    t.ids[i] = e.id;
    t.sources[i] = e.is_label ? 0 : 1;
  }
  const Permutation permutation(t.fill_seed, t.num_rows);
  int64_t filled = static_cast<int64_t>(kept);
  for (int64_t i = 0; i < t.num_rows && filled < t.size; ++i) {
    const int32_t id = permutation(i);
    const int32_t entry = map.Find(id, false);
    if (entry >= 0 && map.entries()[static_cast<size_t>(entry)].place >= 0) continue;
    t.ids[filled] = id;
    t.sources[filled++] = 2;
  }
  for (; filled < t.size; ++filled) t.ids[filled] = -1, t.sources[filled] = -1;
  for (int64_t i = 0; i < t.num_labels; ++i) {
    t.positions[i] = -1;
    if (!in_range(t.labels[i])) continue;
    t.positions[i] = map.entries()[static_cast<size_t>(map.Find(t.labels[i], false))].place;
  }
}

}  // namespace sparse_jax
