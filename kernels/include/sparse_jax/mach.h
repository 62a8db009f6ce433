// Labels hashed to buckets, and the labels whose buckets score highest in sum.
//
// Each of R repetitions sends label l to one of B = 2^bits buckets. Blocks of B consecutive labels
// are permuted each by itself, by a keyed bijection of `bits` bits: so a bucket has one label of
// each block, which the inverse tells, and no list of a bucket's labels is stored. Labels of
// different blocks share a bucket with chance 1 / B, in each repetition apart; labels of one block
// never do. A label's buckets do not depend on how many labels there are.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse_jax/common.h"
#include "sparse_jax/topk.h"

namespace sparse_jax {

class Buckets {
 public:
  // bits from 1 to 30; num_labels and repetitions at least 1.
  Buckets(int64_t num_labels, int64_t repetitions, int64_t bits, uint32_t seed)
      : num_labels_(num_labels),
        repetitions_(repetitions),
        bits_(bits),
        half_((bits + 1) / 2),
        mask_((uint32_t{1} << bits) - 1),
        blocks_(((num_labels - 1) >> bits) + 1) {
    keys_.reserve(static_cast<size_t>(repetitions * blocks_));
    for (int64_t r = 0; r < repetitions; ++r) {
      for (int64_t block = 0; block < blocks_; ++block) {
        const uint32_t key =
            Priority(seed, static_cast<uint32_t>(r), static_cast<uint32_t>(block));
        keys_.push_back({key & mask_, Mix(key) & mask_});
      }
    }
  }

  int64_t repetitions() const { return repetitions_; }
  int64_t size() const { return int64_t{1} << bits_; }
  int64_t blocks() const { return blocks_; }

  uint32_t BucketOf(int64_t repetition, int64_t label) const {
    const Keys keys = KeysOf(repetition, label >> bits_);
    uint32_t x = ((static_cast<uint32_t>(label) & mask_) ^ keys.first) * kFirst & mask_;
    x ^= x >> half_;
    x = (x ^ keys.second) * kSecond & mask_;
    return x ^ x >> half_;
  }

  // The label of a block in a bucket; at or beyond num_labels in the last block, there is none.
  int64_t LabelOf(int64_t repetition, int64_t block, uint32_t bucket) const {
    const Keys keys = KeysOf(repetition, block);
    uint32_t x = bucket ^ bucket >> half_;  // its own inverse, as half_ is half of the bits or more
    x = (x * kSecondInverse & mask_) ^ keys.second;
    x ^= x >> half_;
    x = (x * kFirstInverse & mask_) ^ keys.first;
    return (block << bits_) + x;
  }

  bool Has(int64_t label) const { return label < num_labels_; }

 private:
  struct Keys {
    uint32_t first, second;
  };
  const Keys& KeysOf(int64_t repetition, int64_t block) const {
    return keys_[static_cast<size_t>(repetition * blocks_ + block)];
  }

  static constexpr uint32_t kFirst = 0x9e3779b1u, kSecond = 0x85ebca6bu;
  // Their inverses modulo 2^32, and so modulo every power of two below.
  static constexpr uint32_t kFirstInverse = 0xe8b2f51u, kSecondInverse = 0xa5cb9243u;

  int64_t num_labels_, repetitions_, bits_, half_;
  uint32_t mask_;
  int64_t blocks_;
  std::vector<Keys> keys_;
};

// Offers the labels that lie in one of the `probes` best buckets of some repetition, each once.
// logits: [repetitions, size], a point's. A label scores the sum of its buckets', in their order.
inline void MergeBuckets(const Buckets& buckets, const float* logits, int64_t probes, TopK* best) {
  const int64_t repetitions = buckets.repetitions(), size = buckets.size();
  std::vector<uint8_t> probed(static_cast<size_t>(repetitions * size), 0);
  std::vector<int32_t> ids(static_cast<size_t>(probes));
  std::vector<float> scores(static_cast<size_t>(probes));
  TopK nearest(probes);
  for (int64_t r = 0; r < repetitions; ++r) {
    const float* own = logits + r * size;
    float floor = nearest.floor();
    for (int64_t b = 0; b < size; ++b) {
      if (own[b] < floor) continue;
      nearest.Offer(own[b], static_cast<int32_t>(b));
      floor = nearest.floor();
    }
    nearest.Write(scores.data(), ids.data());
    for (const int32_t id : ids) {
      if (id >= 0) probed[static_cast<size_t>(r * size + id)] = 1;
    }
    for (const int32_t id : ids) {
      for (int64_t block = 0; id >= 0 && block < buckets.blocks(); ++block) {
        const int64_t label = buckets.LabelOf(r, block, static_cast<uint32_t>(id));
        if (!buckets.Has(label)) continue;
        float score = 0.0f;
        bool before = false;  // whether an earlier repetition has offered it
        for (int64_t q = 0; q < repetitions && !before; ++q) {
          const int64_t at = q * size + (q == r ? id : buckets.BucketOf(q, label));
          before = q < r && probed[static_cast<size_t>(at)];
          score += logits[at];
        }
        if (!before) best->Offer(score, static_cast<int32_t>(label));
      }
    }
  }
}

}  // namespace sparse_jax
