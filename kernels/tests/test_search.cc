// Exact top-k and the search of lists against brute force.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <utility>

#include "check.h"
#include "sparse_jax/clusters.h"
#include "sparse_jax/topk.h"

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

Ranked Written(const TopK& best, int64_t k) {
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
        const Floats interleaved = Interleave(queries.data(), n, d);
        const std::vector<uint16_t> words = Words(rows);
        std::vector<TopK> many(static_cast<size_t>(n), TopK(k)), halves = many;
        const int64_t cut = random.Below(num_rows + 1);  // a task's end may be anywhere
        ScanMany(interleaved, n, rows.data(), bias.data(), d, cut, num_rows, &many);
        ScanMany(interleaved, n, rows.data(), bias.data(), d, 0, cut, &many);
        ScanMany(interleaved, n, words.data(), bias.data(), d, cut, num_rows, &halves);
        ScanMany(interleaved, n, words.data(), bias.data(), d, 0, cut, &halves);
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
          ScanOne(q, rows.data(), bias.data(), d, 0, num_rows, &one);
          CHECK(Written(one, k) == Sorted(all, k));
          ScanOne(q, words.data(), bias.data(), d, 0, num_rows, &half);
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

void Bytes(Random& random) {
  for (const int64_t d : {1, 8, 33, 128}) {
    Floats row(static_cast<size_t>(d));
    std::vector<int8_t> bytes(row.size(), 99);
    for (int trial = 0; trial < 20; ++trial) {
      float largest = 0;
      for (float& x : row) {
        x = static_cast<float>(random.Below(20001) - 10000) / 3000.0f;
        largest = std::max(largest, std::fabs(x));
      }
      const float scale = ToBytes(row.data(), d, bytes.data());
      CHECK(scale == largest * (1.0f / 127.0f));
      for (int64_t i = 0; i < d; ++i) {
        CHECK(bytes[i] == std::nearbyint(row[i] * (1.0f / scale)));
        CHECK(std::fabs(scale * bytes[i] - row[i]) <= 0.5001f * scale);
      }
    }
    for (const float bad : {kNan, kInf, -kInf, 0.0f, 1e-40f}) {
      std::fill(row.begin(), row.end(), bad == 0.0f || bad == 1e-40f ? bad : 1.0f);
      row.back() = bad;
      CHECK(ToBytes(row.data(), d, bytes.data()) == 0.0f);
      for (const int8_t byte : bytes) CHECK(byte == 0);
    }
  }
}

void Shorts(Random& random) {
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t d = 1 + random.Below(40);
    const int bits = static_cast<int>(random.Below(15));
    Floats query(static_cast<size_t>(d));
    float largest = 0;
    for (float& x : query) {
      x = std::ldexp(random.Small(), static_cast<int>(random.Below(9)) - 4);
      largest = std::max(largest, std::fabs(x));
    }
    query.push_back(kNan), query.push_back(-kInf), query.push_back(1e-40f);
    const ShortQuery got = ToShorts(query.data(), d + 3, bits);
    int exponent = 0;
    CHECK(std::frexp(got.scale, &exponent) == 0.5f);
    for (int64_t i = 0; i < d; ++i) {
      CHECK(got.values[i] == std::nearbyint(query[i] / got.scale));
      CHECK(std::abs(got.values[i]) <= 1 << bits);
    }
    for (int64_t i = d; i < d + 3; ++i) CHECK(got.values[i] == 0);
    if (largest > 0) CHECK(2 * largest / got.scale >= static_cast<float>(1 << bits));
  }
  const float huge = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::min();
  CHECK(ToShorts(&huge, 1, 14).values[0] == 1 << 14);
  CHECK(ToShorts(&tiny, 1, 14).values[0] >= 1);
}

void Sorting(Random& random) {
  for (const int64_t n : {0, 1, 40, 300}) {
    for (const int64_t lists : {1, 2, 17}) {
      Ints codes(static_cast<size_t>(n)), offsets(static_cast<size_t>(lists) + 1, -7),
          members(codes.size(), -7), places(codes.size(), -7);
      for (int32_t& c : codes) c = static_cast<int32_t>(random.Below(lists + 2)) - 1;
      SortByCode(codes.data(), n, lists, offsets.data(), members.data(), places.data());
      size_t at = 0;
      for (int64_t c = 0; c < lists; ++c) {
        CHECK(offsets[c] == static_cast<int32_t>(at));
        for (int32_t i = 0; i < n; ++i) {
          if (codes[i] == c) CHECK(members[at++] == i && places[i] == static_cast<int32_t>(at - 1));
        }
      }
      CHECK(offsets[lists] == static_cast<int32_t>(at));
      std::vector<bool> seen(codes.size());
      for (const int32_t id : members) {
        CHECK(!seen[id]);
        seen[id] = true;
      }
    }
  }
}

// The whole of a search on packed rows, against doing it in the open.
void Searching(Random& random) {
  const int64_t n = 211, d = 24, lists = 9;
  const Floats weights = random.Smalls(n * d), bias = random.Smalls(n);
  Ints codes(n), offsets(lists + 1), members(n), places(n);
  for (int32_t& c : codes) c = static_cast<int32_t>(random.Below(lists - 1));  // one is empty
  SortByCode(codes.data(), n, lists, offsets.data(), members.data(), places.data());
  std::vector<int8_t> bytes(n * d, 55), keys(lists * d);
  Floats scales(n), biases(n), key_scales(lists, 0.5f), key_biases = random.Smalls(lists);
  PackRows(weights.data(), bias.data(), places.data(), 0, 100, d, bytes.data(), scales.data(),
           biases.data());
  PackRows(Words(weights).data(), bias.data(), places.data(), 100, n, d, bytes.data(),
           scales.data(), biases.data());
  for (int8_t& x : keys) x = static_cast<int8_t>(random.Below(255) - 127);
  const ByteRows key_rows{keys.data(), key_scales.data(), key_biases.data(), lists, d};
  const ByteRows rows{bytes.data(), scales.data(), biases.data(), n, d};
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<int16_t> query(d);
    for (int16_t& x : query) x = static_cast<int16_t>(random.Below(1 << 15) - (1 << 14));
    const float scale = 1.0f / 4096.0f;
    auto score = [&](const int8_t* row, float row_scale, float offset) {
      int32_t sum = 0;
      for (int64_t i = 0; i < d; ++i) sum += row[i] * query[i];
      return static_cast<float>(sum) * (row_scale * scale) + offset;
    };
    Ranked by_list;
    for (int32_t c = 0; c < lists; ++c) {
      if (offsets[c] < offsets[c + 1]) {
        by_list.emplace_back(score(keys.data() + c * d, key_scales[c], key_biases[c]), c);
      }
    }
    const int64_t most = 1 + random.Below(2 * n), kept = 1 + random.Below(12);
    Ranked candidates;
    for (const auto& list : Sorted(by_list, static_cast<int64_t>(by_list.size()))) {
      for (int32_t id = 0; id < n; ++id) {
        if (codes[id] != list.second || static_cast<int64_t>(candidates.size()) == most) continue;
        const int64_t p = places[id];
        candidates.emplace_back(score(bytes.data() + p * d, scales[p], bias[id]), id);
      }
    }
    TopK best(kept);
    int64_t total = 0;
    for (const Span& s : Probe(key_rows, offsets.data(), n, query.data(), scale, most, 7)) {
      CHECK(s.end - s.begin <= 7 && s.begin < s.end);
      total += s.end - s.begin;
      ByteScan(rows, members.data(), query.data(), scale, s.begin, s.end, &best);
    }
    CHECK(total == std::min(most, n));
    CHECK(Written(best, kept) == Sorted(candidates, kept));
  }
}

void DamagedLists(Random& random) {
  const int64_t n = 20, d = 4, lists = 6;
  std::vector<int8_t> keys(lists * d, 1);
  Floats ones(lists, 1.0f);
  ones[5] = kNan;
  const ByteRows key_rows{keys.data(), ones.data(), ones.data(), lists, d};
  const std::vector<int16_t> query(d, 3);
  const int32_t wild[] = {INT32_MIN, -1, 0, 7, 20, 21, INT32_MAX};
  for (int trial = 0; trial < 500; ++trial) {
    Ints offsets(lists + 1);
    for (int32_t& x : offsets) x = wild[random.Below(7)];
    for (const Span& s : Probe(key_rows, offsets.data(), n, query.data(), 1.0f, 50, 1000)) {
      CHECK(s.begin >= 0 && s.begin < s.end && s.end <= n);
    }
  }
}

}  // namespace

int main() {
  Random random;
  ExactTopK(random);
  Merging(random);
  Bytes(random);
  Shorts(random);
  Sorting(random);
  Searching(random);
  DamagedLists(random);
  std::puts("ok");
}
