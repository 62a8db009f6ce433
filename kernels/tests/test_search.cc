// Exact top-k and the scan of quantized rows against brute force.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <utility>

#include "check.h"
#include "sparse_jax/quantized.h"
#include "sparse_jax/scan_many.h"

namespace {

using namespace sparse_jax;

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;
using Ranked = std::vector<std::pair<float, int32_t>>;

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

struct Random {
  std::mt19937 bits{5};
  int64_t Below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  // Small integers, so that sums are exact in any order and ties are many.
  float Small() { return static_cast<float>(Below(7) - 3); }
  Floats Smalls(int64_t n) {
    Floats out(static_cast<size_t>(n));
    for (float& x : out) x = Small();
    return out;
  }
};

// The k best of (score, id), by sorting.
Ranked Sorted(Ranked all, int64_t k) {
  Ranked finite;
  for (const auto& e : all) {
    if (e.first > -kInf) finite.push_back(e);
  }
  std::sort(finite.begin(), finite.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  finite.resize(static_cast<size_t>(k), {-kInf, -1});
  return finite;
}

Ranked Written(TopK best, int64_t k) {
  Floats scores(static_cast<size_t>(k), 7.0f);
  Ints ids(static_cast<size_t>(k), 7);
  best.Write(scores.data(), ids.data());
  Ranked out;
  for (int64_t i = 0; i < k; ++i) out.emplace_back(scores[i], ids[i]);
  return out;
}

// As bfloat16, which holds small integers as they are.
std::vector<uint16_t> Words(const Floats& rows) {
  std::vector<uint16_t> out;
  for (const float x : rows) out.push_back(RoundWith(x, 0));
  return out;
}

float Product(const float* a, const float* b, int64_t d) {
  float sum = 0;
  for (int64_t i = 0; i < d; ++i) sum += a[i] * b[i];
  return sum;
}

void ExactTopK(Random& random) {
  for (const int64_t num_rows : {0, 1, 5, 6, 7, 48, 49, 131}) {
    for (const int64_t d : {1, 3, 16, 17, 40}) {
      for (const int64_t n : {1, 2, 15, 16, 33}) {
        const int64_t k = 1 + random.Below(9);
        const Floats rows = random.Smalls(num_rows * d), queries = random.Smalls(n * d);
        Floats bias = random.Smalls(num_rows);
        if (num_rows > 3) bias[1] = kNan, bias[2] = -kInf;
        ManyQueries asked(queries.data(), n, d, num_rows), too(queries.data(), n, d, num_rows);
        const std::vector<uint16_t> words = Words(rows);
        std::vector<TopK> many(static_cast<size_t>(n), TopK(k)), halves = many;
        const int64_t cut = random.Below(num_rows + 1);  // a task's end may be anywhere
        ScanMany(&asked, rows.data(), bias.data(), cut, num_rows, NoRest{}, &many);
        ScanMany(&asked, rows.data(), bias.data(), 0, cut, NoRest{}, &many);
        ScanMany(&too, words.data(), bias.data(), cut, num_rows, NoRest{}, &halves);
        ScanMany(&too, words.data(), bias.data(), 0, cut, NoRest{}, &halves);
        Ints some;
        for (int64_t i = 0; i < num_rows; ++i) {
          if (random.Below(2)) some.push_back(static_cast<int32_t>(i));
        }
        some.push_back(-1), some.push_back(INT32_MIN);
        some.push_back(static_cast<int32_t>(num_rows)), some.push_back(INT32_MAX);
        for (int64_t b = 0; b < n; ++b) {
          const float* q = queries.data() + b * d;
          Ranked all, among;
          for (int64_t i = 0; i < num_rows; ++i) {
            all.emplace_back(Product(rows.data() + i * d, q, d) + bias[i], i);
          }
          for (const int32_t id : some) {
            if (id >= 0 && id < num_rows) among.push_back(all[static_cast<size_t>(id)]);
          }
          CHECK(Written(many[static_cast<size_t>(b)], k) == Sorted(all, k));
          CHECK(Written(halves[static_cast<size_t>(b)], k) == Sorted(all, k));
          TopK one(k), few(k), half(k), half_few(k);
          ScanOne(q, rows.data(), bias.data(), d, 0, num_rows, nullptr, &one);
          CHECK(Written(one, k) == Sorted(all, k));
          ScanOne(q, words.data(), bias.data(), d, 0, num_rows, nullptr, &half);
          CHECK(Written(half, k) == Sorted(all, k));
          ScanAmong(q, rows.data(), bias.data(), num_rows, d, some.data(),
                    static_cast<int64_t>(some.size()), &few);
          CHECK(Written(few, k) == Sorted(among, k));
          ScanAmong(q, words.data(), bias.data(), num_rows, d, some.data(),
                    static_cast<int64_t>(some.size()), &half_few);
          CHECK(Written(half_few, k) == Sorted(among, k));
        }
      }
    }
  }
}

void Merging(Random& random) {
  TopK whole(4), left(4), right(4);
  for (int32_t i = 0; i < 50; ++i) {
    const float score = random.Small();
    whole.Offer(score, i);
    (random.Below(2) ? left : right).Offer(score, i);
  }
  right.Merge(left);
  CHECK(Written(whole, 4) == Written(right, 4));
}

// All versions of the sums that this machine can run, against adding entry by entry.
void Sums(Random& random) {
  for (const int64_t blocks : {0, 1, 2, 4, 35}) {
    for (const int64_t pairs : {1, 2, 7, 128}) {
      std::vector<uint8_t> codes(static_cast<size_t>(blocks * pairs * kBlockRows));
      std::vector<uint8_t> tables(static_cast<size_t>(2 * pairs * kTableEntries));
      for (uint8_t& x : codes) x = static_cast<uint8_t>(random.Below(256));
      for (uint8_t& x : tables) x = static_cast<uint8_t>(255 - random.Below(2));  // near overflow
      std::vector<uint16_t> want(static_cast<size_t>(blocks * kBlockRows), 0), plain = want,
                                                                               best = want;
      for (int64_t row = 0; row < blocks * kBlockRows; ++row) {
        int sum = 0;
        for (int64_t j = 0; j < pairs; ++j) {
          const uint8_t both =
              codes[static_cast<size_t>((row / kBlockRows * pairs + j) * kBlockRows + row % kBlockRows)];
          const uint8_t* table = tables.data() + 2 * j * kTableEntries;
          sum += table[both % 16] + table[kTableEntries + both / 16];
        }
        want[static_cast<size_t>(row)] = static_cast<uint16_t>(sum);
      }
      BlockSumsPlain(codes.data(), tables.data(), pairs, blocks, plain.data());
      BlockSums(codes.data(), tables.data(), pairs, blocks, best.data());
      CHECK(plain == want);
#if defined(__x86_64__) && defined(__GNUC__)
      if (__builtin_cpu_supports("avx2")) {
        std::vector<uint16_t> narrow(want.size());
        BlockSumsAvx2(codes.data(), tables.data(), pairs, blocks, narrow.data());
        CHECK(narrow == want);
      }
#endif
      CHECK(best == want);
    }
  }
}

void Shortlists(Random& random) {
  for (const int64_t limit : {1, 3, 40, 500}) {
    for (const int64_t n : {0, 1, 39, 1000}) {
      Ranked all;
      Shortlist whole(limit), left(limit), right(limit);
      for (int32_t i = 0; i < n; ++i) {
        float score = random.Small();
        if (random.Below(9) == 0) score = random.Below(2) ? kNan : -kInf;
        if (random.Below(9) == 0) score = random.Below(2) ? kInf : -0.0f;
        all.emplace_back(score, i);
        whole.Offer(score, i);
        (random.Below(2) ? left : right).Offer(score, i);
      }
      right.Merge(left);
      Ints want, got(static_cast<size_t>(limit), 7), merged = got;
      for (const auto& e : Sorted(all, limit)) want.push_back(e.second);
      whole.Write(got.data());
      right.Write(merged.data());
      CHECK(got == want);
      CHECK(merged == want);
    }
  }
}

// The scan in parts, which may begin and end at any block, against doing it in the open.
void Quantized(Random& random) {
  for (const int64_t blocks : {1, 2, 31, 70}) {
    const int64_t pairs = 1 + random.Below(4), n = 3, rows = blocks * kBlockRows, limit = 45;
    std::vector<uint8_t> codes(static_cast<size_t>(rows * pairs));
    std::vector<uint8_t> tables(static_cast<size_t>(n * 2 * pairs * kTableEntries));
    for (uint8_t& x : codes) x = static_cast<uint8_t>(random.Below(256));
    for (uint8_t& x : tables) x = static_cast<uint8_t>(random.Below(3));
    Floats biases = random.Smalls(rows), scales = random.Smalls(rows), steps = {0.0f, 0.5f, 1.0f};
    const Ints below = {0, -7, 5};
    biases[0] = kNan, biases[static_cast<size_t>(rows) - 1] = -kInf;
    std::vector<Shortlist> best(3, Shortlist(limit));
    const int64_t cut = random.Below(blocks + 1);
    const QuantizedRows held{codes.data(), scales.data(), biases.data(), blocks, pairs};
    const QuantizedQueries asked{tables.data(), below.data(), steps.data(), n};
    ScanQuantized(held, asked, cut, blocks, best.data());
    ScanQuantized(held, asked, 0, cut, best.data());
    std::vector<uint16_t> sums(static_cast<size_t>(rows));
    for (int64_t b = 0; b < n; ++b) {
      BlockSumsPlain(codes.data(), tables.data() + b * 2 * pairs * kTableEntries, pairs, blocks,
                     sums.data());
      Ranked all;
      for (int64_t i = 0; i < rows; ++i) {
        const float whole = static_cast<float>(sums[i] + below[b]);
        all.emplace_back(whole * (steps[b] * scales[i]) + biases[i], static_cast<int32_t>(i));
      }
      Ints want, got(static_cast<size_t>(limit));
      for (const auto& e : Sorted(all, limit)) want.push_back(e.second);
      best[static_cast<size_t>(b)].Write(got.data());
      CHECK(got == want);
      Shortlist plain(limit);  // which machines with wider registers don't use
      OfferChunk(sums.data(), scales.data(), biases.data(), below[b], steps[b], rows, 0, &plain);
      plain.Write(got.data());
      CHECK(got == want);
    }
  }
}

}  // namespace

int main() {
  Random random;
  ExactTopK(random);
  Merging(random);
  Sums(random);
  Shortlists(random);
  Quantized(random);
  std::puts("ok");
}
