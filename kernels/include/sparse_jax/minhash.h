// Near-duplicates among sets: codes of MinHash by densified one-permutation hashing, and a table of
// sets that finds those alike. retrieval/hashing/minhash.py has the law, ops/minhash.py the same in
// NumPy, bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sparse_jax/common.h"

namespace sparse_jax {

// What minhash.init draws.
struct MinHashParams {
  uint32_t words[2];
  const uint32_t* salts;   // [tables]
  const int32_t* strides;  // [tables * hashes]
  int64_t tables;
  int64_t hashes;
  int64_t bits;
};

// In handlers/minhash.cc, compiled for speed: codes [sets * tables]. Set i has the elements
// ids[offsets[i]] to ids[offsets[i + 1]]. The same on any number of threads.
std::vector<int32_t> MinHashCodes(const int64_t* offsets, int64_t sets, const int32_t* ids,
                                  const MinHashParams& params, int64_t prime, int64_t threads);

// Hashes one set after the other. Ids below 0 are no elements; `prime` is the least that isn't below
// tables * hashes.
class MinHasher {
 public:
  MinHasher(const MinHashParams& params, int64_t prime)
      : params_(params), prime_(prime), bins_(params.tables * params.hashes),
        least_(size_t(bins_)), filled_(size_t(bins_)) {}

  void Hash(const int32_t* ids, int64_t size, int32_t* codes) {
    std::fill(least_.begin(), least_.end(), kEmpty);
    for (int64_t i = 0; i < size; ++i) {
      if (ids[i] < 0) continue;
      const uint32_t word = Mix(Mix(uint32_t(ids[i]) ^ params_.words[0]) + params_.words[1]);
      const int32_t value = std::min(int32_t(word >> 1), kEmpty - 1);
      int32_t& bin = least_[word % uint32_t(bins_)];
      bin = std::min(bin, value);
    }
    for (int64_t bin = 0; bin < bins_; ++bin) filled_[size_t(bin)] = Fill(bin);
    for (int64_t table = 0; table < params_.tables; ++table) {
      uint32_t code = params_.salts[table];
      for (int64_t k = 0; k < params_.hashes; ++k) {
        code = Mix((code ^ uint32_t(filled_[size_t(table * params_.hashes + k)])) + 0x9E3779B9u);
      }
      codes[table] = int32_t(code >> (32 - params_.bits));
    }
  }

 private:
  static constexpr int32_t kEmpty = 0x7FFFFFFF;

  // A bin's value, or that of the first bin on its way that has one; -1 where none has.
  int32_t Fill(int64_t bin) const {
    int64_t at = bin;
    for (int64_t step = 0; step < prime_; ++step) {
      if (at < bins_ && least_[size_t(at)] != kEmpty) return least_[size_t(at)];
      at += params_.strides[bin];
      if (at >= prime_) at -= prime_;
    }
    return -1;
  }

  MinHashParams params_;
  int64_t prime_, bins_;
  std::vector<int32_t> least_, filled_;
};

// Sets so far that are like none before them, found by their codes. A set is like another if their
// Jaccard similarity is at least the threshold; of several the most similar, and then the earliest,
// counts. A set without elements is like none.
class SetMatcher {
 public:
  // `most`: sets with one code in one table that are kept for comparison, the earliest.
  SetMatcher(int64_t tables, double threshold, int64_t most)
      : tables_(tables + 1), threshold_(threshold), most_(most) {
    Resize(1024);
  }

  // Takes the next set, its ids ascending and distinct: returns the number of the one it is like,
  // or its own.
  int64_t Add(const int32_t* ids, int64_t size, const int32_t* codes, double* similarity) {
    const int64_t number = seen_++;
    *similarity = 1.0;
    if (size == 0) return number;
    if (2 * int64_t(numbers_.size()) >= slots_) Resize(2 * slots_);
    // Before the others a table in which only equal sets meet, so that those are always found.
    all_.assign(1, Fingerprint(ids, size));
    all_.insert(all_.end(), codes, codes + tables_ - 1);
    full_.assign(size_t(tables_), 0);
    int64_t best = -1;
    double most_alike = 0.0;
    for (int64_t table = 0; table < tables_ && most_alike < 1.0; ++table) {
      int64_t met = 0;
      for (int32_t at = *Head(table, all_[size_t(table)]); at >= 0; at = next_[Place(at, table)]) {
        if (codes_[Place(at, table)] != all_[size_t(table)]) continue;
        ++met;
        if (stamps_[size_t(at)] == number) continue;
        stamps_[size_t(at)] = number;
        const double alike = Similarity(ids, size, at);
        if (alike >= threshold_ && (alike > most_alike || (alike == most_alike && at < best))) {
          best = at;
          most_alike = alike;
        }
      }
      full_[size_t(table)] = met >= most_;
    }
    if (best >= 0) {
      *similarity = most_alike;
      return numbers_[size_t(best)];
    }
    Insert(ids, size, number);
    return number;
  }

  // In handlers/minhash.cc: `Add` for each of some sets.
  void AddAll(const int64_t* offsets, int64_t sets, const int32_t* ids, const int32_t* codes,
              int64_t* numbers, double* similarities);

  int64_t tables() const { return tables_ - 1; }

 private:
  size_t Place(int64_t at, int64_t table) const { return size_t(at * tables_ + table); }

  int32_t* Head(int64_t table, int32_t code) {
    return &heads_[size_t(table * slots_) + (uint32_t(code) & uint32_t(slots_ - 1))];
  }

  static int32_t Fingerprint(const int32_t* ids, int64_t size) {
    uint32_t code = uint32_t(size);
    for (int64_t i = 0; i < size; ++i) code = Mix((code ^ uint32_t(ids[i])) + 0x9E3779B9u);
    return int32_t(code >> 1);
  }

  // 0 where the threshold can't be reached.
  double Similarity(const int32_t* ids, int64_t size, int64_t at) const {
    const int32_t* const other = &ids_[size_t(starts_[size_t(at)])];
    const int64_t others = starts_[size_t(at) + 1] - starts_[size_t(at)];
    if (double(std::min(size, others)) + 1e-6 < threshold_ * double(std::max(size, others))) return 0.0;
    // From |A and B| >= J (|A| + |B|) / (1 + J), a little less for rounding.
    const int64_t need =
        int64_t(threshold_ * double(size + others) / (1.0 + threshold_) - 1e-6);
    int64_t i = 0, j = 0, both = 0;
    while (i < size && j < others) {
      const int64_t steps = std::min(size - i, others - j);  // at least so many remain
      if (both + steps < need) return 0.0;
      for (int64_t step = std::min<int64_t>(steps, 32); step > 0; --step) {
        const int32_t a = ids[i], b = other[j];
        both += a == b;
        i += a <= b;
        j += b <= a;
      }
    }
    return double(both) / double(size + others - both);
  }

  void Insert(const int32_t* ids, int64_t size, int64_t number) {
    const int64_t at = int64_t(numbers_.size());
    numbers_.push_back(number);
    stamps_.push_back(-1);
    ids_.insert(ids_.end(), ids, ids + size);
    starts_.push_back(int64_t(ids_.size()));
    codes_.insert(codes_.end(), all_.begin(), all_.end());
    for (int64_t table = 0; table < tables_; ++table) {
      next_.push_back(-1);
      if (full_[size_t(table)]) codes_[Place(at, table)] = -1;
    }
    Link(at);
  }

  void Link(int64_t at) {
    for (int64_t table = 0; table < tables_; ++table) {
      const int32_t code = codes_[Place(at, table)];
      if (code < 0) continue;
      int32_t* const head = Head(table, code);
      next_[Place(at, table)] = *head;
      *head = int32_t(at);
    }
  }

  void Resize(int64_t slots) {
    slots_ = slots;
    heads_.assign(size_t(tables_ * slots_), -1);
    for (size_t at = 0; at < numbers_.size(); ++at) Link(int64_t(at));
  }

  int64_t tables_;
  double threshold_;
  int64_t most_;
  int64_t seen_ = 0, slots_ = 0;
  std::vector<int32_t> heads_;            // [tables, slots]
  std::vector<int32_t> next_, codes_;     // [kept, tables]; a code of -1 is in no bucket
  std::vector<int64_t> numbers_, stamps_; // [kept]; who asked last
  std::vector<int64_t> starts_{0};        // [kept + 1]
  std::vector<int32_t> ids_;
  std::vector<int32_t> all_;              // codes of the set that is added
  std::vector<char> full_;
};

}  // namespace sparse_jax
