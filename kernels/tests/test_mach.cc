// Build: g++ -std=c++17 -g -fsanitize=address,undefined -Ikernels/include <this file>
#include "sparse_jax/mach.h"

#include <limits>
#include <vector>

#include "check.h"

namespace {

using namespace sparse_jax;

// Every bucket has one label of each block, and the inverse finds it.
void TestBijection() {
  for (int64_t bits = 1; bits <= 9; ++bits) {
    const int64_t size = int64_t{1} << bits;
    const Buckets buckets(3 * size - 1, 2, bits, 7);
    CHECK(buckets.blocks() == 3 && buckets.size() == size);
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t block = 0; block < 3; ++block) {
        std::vector<int> seen(static_cast<size_t>(size), 0);
        for (int64_t i = 0; i < size; ++i) {
          const int64_t label = block * size + i;
          const uint32_t bucket = buckets.BucketOf(r, label);
          CHECK(bucket < size);
          ++seen[bucket];
          CHECK(buckets.LabelOf(r, block, bucket) == label);
        }
        for (const int count : seen) CHECK(count == 1);
      }
    }
  }
}

// Labels of different blocks share a bucket about once in B.
void TestCollisions() {
  constexpr int64_t kBits = 8, kLabels = 64 << kBits;
  const Buckets buckets(kLabels, 2, kBits, 3);
  std::vector<uint32_t> of[2];
  for (int64_t i = 0; i < 2 * kLabels; ++i) {
    of[i / kLabels].push_back(buckets.BucketOf(i / kLabels, i % kLabels));
  }
  int64_t both = 0, first = 0, pairs = 0;
  for (size_t a = 0; a < kLabels; a += 3) {
    for (size_t b = (a / 256 + 1) * 256; b < kLabels; b += 5) {
      const bool same = of[0][a] == of[0][b];
      ++pairs;
      first += same;
      both += same && of[1][a] == of[1][b];
    }
  }
  CHECK(first * 256 > pairs * 9 / 10 && first * 256 < pairs * 11 / 10);
  CHECK(both * 256 * 256 < pairs * 3 / 2 && both * 256 * 256 > pairs / 2);
}

// The largest ids and the fewest or most bits.
void TestEdges() {
  const int64_t most = std::numeric_limits<int32_t>::max();
  const Buckets wide(most, 1, 30, 1), one(1, 3, 1, 1);
  CHECK(wide.LabelOf(0, 1, wide.BucketOf(0, most - 1)) == most - 1);
  CHECK(wide.Has(most - 1) && !wide.Has(most));
  const float logits[] = {1, 2, 3, 4, 5, 6};
  TopK best(2);
  MergeBuckets(one, logits, 2, &best);
  float scores[2];
  int32_t ids[2];
  best.Write(scores, ids);
  CHECK(ids[0] == 0 && ids[1] == -1);
}

// As exhaustive sums over all labels, those not probed left out.
void TestMerge() {
  constexpr int64_t kBits = 4, kSize = 16, kReps = 3, kLabels = 150, kBest = 6;
  const Buckets buckets(kLabels, kReps, kBits, 11);
  uint32_t state = 5;
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<float> logits(kReps * kSize);
    for (float& x : logits) x = float((state = Mix(state + 1)) % 9u);  // many ties
    if (turn % 3 == 0) logits[5] = std::numeric_limits<float>::quiet_NaN();
    if (turn % 4 == 0) logits[20] = -std::numeric_limits<float>::infinity();
    const int64_t probes = 1 + turn % kSize;
    TopK expected(kBest), best(kBest);
    std::vector<int> probed(kReps * kSize, 0);
    for (int64_t r = 0; r < kReps; ++r) {
      TopK near(probes);
      for (int32_t b = 0; b < kSize; ++b) near.Offer(logits[size_t(r * kSize + b)], b);
      std::vector<float> scores(static_cast<size_t>(probes));
      std::vector<int32_t> ids(static_cast<size_t>(probes));
      near.Write(scores.data(), ids.data());
      for (const int32_t id : ids) if (id >= 0) probed[size_t(r * kSize + id)] = 1;
    }
    for (int64_t label = 0; label < kLabels; ++label) {
      float score = 0;
      bool any = false;
      for (int64_t r = 0; r < kReps; ++r) {
        const auto at = static_cast<size_t>(r * kSize + buckets.BucketOf(r, label));
        score += logits[at];
        any = any || probed[at];
      }
      if (any) expected.Offer(score, int32_t(label));
    }
    MergeBuckets(buckets, logits.data(), probes, &best);
    float scores[2][kBest];
    int32_t ids[2][kBest];
    expected.Write(scores[0], ids[0]);
    best.Write(scores[1], ids[1]);
    for (int64_t i = 0; i < kBest; ++i) {
      CHECK(ids[0][i] == ids[1][i] && scores[0][i] == scores[1][i]);
    }
  }
}

}  // namespace

int main() {
  TestBijection();
  TestCollisions();
  TestEdges();
  TestMerge();
  return 0;
}
