// Distinct ids and transposed rows against brute force.
#include "sparse_jax/rows.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

#include "check.h"

namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

struct Random {
  std::mt19937 bits{11};
  int64_t Below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  float Float() { return static_cast<float>(Below(2001) - 1000) / 700.0f; }
  int32_t Id(int64_t end) {
    static const int32_t kWild[] = {INT32_MIN, INT32_MIN + 1, -2, -1, INT32_MAX, INT32_MAX - 1};
    if (end == 0 || Below(6) == 0) return kWild[Below(6)];
    return static_cast<int32_t>(Below(8) == 0 ? end : Below(end));
  }
};

void CheckUnique(const Ints& ids, int64_t num_rows, int64_t size) {
  std::set<int32_t> distinct;
  for (const int32_t id : ids) {
    if (id >= 0 && id < num_rows) distinct.insert(id);
  }
  Ints want(distinct.begin(), distinct.end());
  want.resize(static_cast<size_t>(size), -1);
  Ints unique(static_cast<size_t>(size), 99), inverse(ids.size(), 99);
  const int32_t count =
      sparse_jax::UniqueIds(ids.data(), static_cast<int64_t>(ids.size()), num_rows, size,
                            unique.data(), inverse.data());
  CHECK(count == static_cast<int32_t>(distinct.size()));
  CHECK(unique == want);
  for (size_t i = 0; i < ids.size(); ++i) {
    const bool there =
        ids[i] >= 0 && std::find(unique.begin(), unique.end(), ids[i]) != unique.end();
    CHECK(there ? unique[static_cast<size_t>(inverse[i])] == ids[i] : inverse[i] == -1);
  }
}

void UniqueIds() {
  Random random;
  CheckUnique({}, 0, 0);
  CheckUnique({0, -1}, 0, 2);
  CheckUnique({0, 63, 64, 64, 127, 128, 129}, 129, 9);
  CheckUnique({INT32_MAX, INT32_MIN, INT32_MAX - 1, 0}, 1, 1);
  for (int round = 0; round < 400; ++round) {
    const int64_t num_rows = random.Below(round % 2 ? 5 : 300);
    Ints ids(static_cast<size_t>(random.Below(60)));
    for (int32_t& id : ids) id = random.Id(num_rows);
    CheckUnique(ids, num_rows, random.Below(70));
  }
}

void SplitColumns() {
  Random random;
  for (int round = 0; round < 100; ++round) {
    const int64_t d = random.Below(20), n = 1 + random.Below(40), cut = random.Below(n + 1);
    Floats columns(static_cast<size_t>((d + 1) * n)), rows(static_cast<size_t>(n * d));
    Floats last(static_cast<size_t>(n));
    for (float& x : columns) x = random.Float();
    sparse_jax::SplitColumns(columns.data(), n, d, cut, n, rows.data(), last.data());
    sparse_jax::SplitColumns(columns.data(), n, d, 0, cut, rows.data(), last.data());
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t i = 0; i < d; ++i) {
        CHECK(rows[static_cast<size_t>(c * d + i)] == columns[static_cast<size_t>(i * n + c)]);
      }
      CHECK(last[static_cast<size_t>(c)] == columns[static_cast<size_t>(d * n + c)]);
    }
  }
}

}  // namespace

int main() {
  SplitColumns();
  UniqueIds();
  std::puts("test_rows: ok");
}
