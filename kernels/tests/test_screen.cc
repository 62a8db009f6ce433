// The bounds of scores by bytes, and the scan that leaves out rows by them.
#include "sparse_jax/screen.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "check.h"
#include "sparse_jax/parallel.h"
#include "sparse_jax/scan_many.h"

namespace {

using namespace sparse_jax;

using Floats = std::vector<float>;

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

struct Random {
  std::mt19937 bits{11};
  std::normal_distribution<float> normal;
  int64_t Below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

  // A vector of one of ten kinds; all of the first six have a bound.
  void Fill(float* to, int64_t d, int64_t kinds) {
    const int64_t kind = Below(kinds);
    const float scale = std::ldexp(1.0f, static_cast<int>(Below(20)) - 10);
    for (int64_t i = 0; i < d; ++i) {
      float x = normal(bits) * scale;
      if (kind == 1) x = std::fabs(x);                             // all of one sign
      if (kind == 2) x = Below(3) ? 0.0f : x;                      // sparse
      if (kind == 3) x = 0.0f;
      if (kind == 4) x = i == 0 ? 30 * scale : scale;              // one large: coarse steps
      if (kind == 5) x = (static_cast<float>(Below(255)) - 127.5f) * scale;  // halfway to the next
      if (kind == 6) x = std::ldexp(x, -static_cast<int>(Below(150)));  // far sizes, denormals too
      if (kind == 7) x = std::ldexp(x, 100);
      if (kind == 8) x = std::ldexp(x, -140);
      if (kind == 9 && Below(d) == 0) x = Below(2) ? kNan : kInf;
      to[i] = x;
    }
  }
};

struct Layer {
  int64_t n, num_rows, d;
  Floats queries, rows, bias, rest;

  Layer(Random& random, int64_t of_queries, int64_t of_rows, int64_t size, int64_t kinds)
      : n(of_queries), num_rows(of_rows), d(size), queries(static_cast<size_t>(n * d)),
        rows(static_cast<size_t>(num_rows * d)), bias(static_cast<size_t>(num_rows)),
        rest(static_cast<size_t>(num_rows * kLanes)) {
    for (int64_t b = 0; b < n; ++b) random.Fill(queries.data() + b * d, d, kinds);
    for (int64_t r = 0; r < num_rows; ++r) random.Fill(rows.data() + r * d, d, kinds);
    for (float& x : bias) x = random.Below(2) ? 0.0f : random.normal(random.bits);
    for (float& x : rest) {
      x = std::ldexp(random.normal(random.bits), static_cast<int>(random.Below(20)));
    }
    if (kinds > 9) {
      const float strange[] = {kNan, kInf, -kInf, 3e38f, -3e38f};
      for (float& x : bias) x = random.Below(30) ? x : strange[random.Below(5)];
      for (float& x : rest) x = random.Below(60) ? x : strange[random.Below(5)];
    }
  }

  // As the scan computes it.
  float Score(int64_t row, int64_t query, bool with_rest) const {
    float sum = 0;
    for (int64_t i = 0; i < d; ++i) {
      sum += rows[static_cast<size_t>(row * d + i)] * queries[static_cast<size_t>(query * d + i)];
    }
    sum += bias[static_cast<size_t>(row)];
    return with_rest ? sum + rest[static_cast<size_t>(row * kLanes + query % kLanes)] : sum;
  }
};

// No row is left out whose score is the floor; one with a bound is where the floor lies far above.
void Bounds(Random& random) {
  if (!CanScreen(1)) return;
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t d = 1 + random.Below(trial % 3 ? 40 : 300), n = 1 + random.Below(40);
    const Layer x(random, n, 1 + random.Below(kSlabRows), d, trial % 2 ? 10 : 6);
    const bool with_rest = random.Below(2) == 1;
    ByteQueries queries;
    queries.Fill(x.queries.data(), n, d);
    ByteRows rows(d);
    rows.Fill(x.rows.data(), x.bias.data(), x.num_rows);
    for (int64_t g = 0; g * kLanes < n; ++g) {
      for (int64_t row = 0; row < x.num_rows; ++row) {
        float floors[kLanes], far[kLanes];
        uint16_t masks[kScreenRows];
        for (int64_t j = 0; j < kLanes; ++j) {
          const int64_t query = g * kLanes + j;
          floors[j] = query < n ? x.Score(row, query, with_rest) : kInf;
          double lengths = 0, length = 0, size = std::fabs(x.bias[static_cast<size_t>(row)]);
          for (int64_t i = 0; i < d && query < n; ++i) {
            const double q = x.queries[static_cast<size_t>(query * d + i)];
            const double w = x.rows[static_cast<size_t>(row * d + i)];
            lengths += q * q, length += w * w;
          }
          if (with_rest) size += std::fabs(x.rest[static_cast<size_t>(row * kLanes + j)]);
          // A step is at most 1 / 127 of the length, an error half a step in each coordinate, of
          // query and of row; the bound may lie twice as far off as the sum of bytes.
          const double off = std::sqrt(static_cast<double>(d)) / 60 * std::sqrt(lengths * length);
          far[j] = static_cast<float>(floors[j] + off + 1e-5 * size + 1e-20);
        }
        const int64_t at = row / kScreenRows * kScreenRows;
        const float* more = with_rest ? x.rest.data() : nullptr;
        rows.Screen(queries, g, at, x.num_rows, floors, more, masks);
        for (int64_t j = 0; j < kLanes; ++j) {
          const bool may = masks[row - at] >> j & 1;
          CHECK(may || g * kLanes + j >= n || floors[j] != floors[j] || floors[j] == -kInf);
        }
        rows.Screen(queries, g, at, x.num_rows, far, more, masks);
        for (int64_t j = 0; j < kLanes && trial % 2 == 0; ++j) {
          if (g * kLanes + j < n) CHECK(!(masks[row - at] >> j & 1));
        }
      }
    }
  }
}

// A row that is left out by its bias, or by what it scores besides, gets no score of its own.
void LeftOut(Random& random) {
  if (!CanScreen(1)) return;
  for (const float never : {-kInf, kNan}) {
    Layer x(random, kLanes, kScreenRows, 40, 6);
    for (int64_t r = 0; r < kScreenRows; ++r) {
      if (r % 2) x.bias[static_cast<size_t>(r)] = never;
      else if (never == -kInf) std::fill_n(x.rest.data() + r * kLanes, kLanes, never);
    }
    ByteQueries queries;
    queries.Fill(x.queries.data(), x.n, x.d);
    ByteRows rows(x.d);
    rows.Fill(x.rows.data(), x.bias.data(), kScreenRows);
    Floats floors(kLanes, std::numeric_limits<float>::lowest());
    uint16_t masks[kScreenRows];
    rows.Screen(queries, 0, 0, kScreenRows, floors.data(), x.rest.data(), masks);
    for (int64_t r = 0; r < kScreenRows; ++r) {
      CHECK(masks[r] == (r % 2 || never == -kInf ? 0 : 0xffff));
    }
  }
}

struct Best {
  Floats scores;
  std::vector<int32_t> ids;
  bool operator==(const Best& other) const {  // bits: -0 is not 0
    return ids == other.ids && std::memcmp(scores.data(), other.scores.data(),
                                           scores.size() * sizeof(float)) == 0;
  }
};

Best Written(std::vector<TopK>* best, int64_t k) {
  const size_t size = best->size() * static_cast<size_t>(k);
  Best out{Floats(size), std::vector<int32_t>(size)};
  for (size_t b = 0; b < best->size(); ++b) {
    const size_t at = b * static_cast<size_t>(k);
    (*best)[b].Write(out.scores.data() + at, out.ids.data() + at);
  }
  return out;
}

// Every row offered to every query.
Best Offered(const Layer& x, int64_t k) {
  std::vector<TopK> best(static_cast<size_t>(x.n), TopK(k));
  for (int64_t b = 0; b < x.n; ++b) {
    for (int64_t r = 0; r < x.num_rows; ++r) {
      best[static_cast<size_t>(b)].Offer(x.Score(r, b, true), static_cast<int32_t>(r));
    }
  }
  return Written(&best, k);
}

// The scan in tasks that run on threads, with bounds or without.
template <typename W>
Best Find(const Layer& x, const W* rows, int64_t k, bool bounds, int64_t tasks, int64_t threads) {
  ManyQueries many(x.queries.data(), x.n, x.d, bounds ? ManyQueries::kLeastRows : 0);
  const auto n = static_cast<size_t>(x.n);
  std::vector<std::vector<TopK>> best(static_cast<size_t>(tasks), std::vector<TopK>(n, TopK(k)));
  std::vector<std::thread> running;
  ParallelFor(
      tasks, threads - 1, [&](std::function<void()> work) { running.emplace_back(work); },
      [&](int64_t task) {
        const int64_t begin = x.num_rows * task / tasks, end = x.num_rows * (task + 1) / tasks;
        ScanMany(&many, rows, x.bias.data(), begin, end,
                 [&](int64_t, int64_t slab, int64_t) { return x.rest.data() + slab * kLanes; },
                 &best[static_cast<size_t>(task)]);
      });
  for (auto& thread : running) thread.join();
  for (size_t b = 0; b < n; ++b) {
    for (size_t task = 1; task < best.size(); ++task) best[0][b].Merge(best[task][b]);
  }
  return Written(&best[0], k);
}

// What is left out changes no bit: kinds of rows mixed, equal rows, k up to all, rows of words.
void SameAsWithout(Random& random) {
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t num_rows = 1 + random.Below(trial % 4 ? 700 : 60), d = 1 + random.Below(70);
    Layer x(random, ManyQueries::kLeast + random.Below(30), num_rows, d, trial % 2 ? 10 : 1);
    if (trial % 3 == 0) x.rest.assign(x.rest.size(), 0.0f);
    for (int64_t r = 1; trial % 5 == 0 && r < num_rows; ++r) {  // few distinct rows: ties
      const int64_t from = r % 7;
      std::copy_n(x.rows.data() + from * d, d, x.rows.data() + r * d);
      x.bias[static_cast<size_t>(r)] = x.bias[static_cast<size_t>(from)];
    }
    const int64_t k = random.Below(4) ? 1 + random.Below(9) : 1 + random.Below(num_rows + 3);
    const Best want = Offered(x, k);
    for (const int64_t tasks : {1, 5}) {
      for (const bool bounds : {true, false}) {
        CHECK(Find(x, x.rows.data(), k, bounds, tasks, tasks > 1 ? 3 : 1) == want);
      }
    }
    std::vector<uint16_t> words(x.rows.size());
    RoundRow(x.rows.data(), static_cast<int64_t>(words.size()), words.data());
    WidenRow(words.data(), static_cast<int64_t>(words.size()), x.rows.data());
    const Best narrow = Offered(x, k);
    for (const bool bounds : {true, false}) {
      CHECK(Find(x, words.data(), k, bounds, 5, 3) == narrow);
    }
  }
}

// A task has many rows for each of its best, unless threads would stand by; and a slab at least.
void Tasks() {
  CHECK(RowsOfTask(64000, 5, 2) == 2000);
  CHECK(RowsOfTask(64000, 1000, 2) == 8000);
  CHECK(RowsOfTask(8000, 1000, 2) == 4000);
  CHECK(RowsOfTask(8000, 1000, 64) == 250);
  CHECK(RowsOfTask(100, 1000, 8) == kSlabRows && RowsOfTask(0, 1, 0) == kSlabRows);
}

}  // namespace

int main() {
  Random random;
  Bounds(random);
  LeftOut(random);
  Tasks();
  SameAsWithout(random);
  std::puts("ok");
}
