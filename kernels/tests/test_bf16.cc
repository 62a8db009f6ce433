// Rows of bfloat16 tables, read and added to, against brute force.
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "check.h"
#include "sparse_jax/bf16.h"

namespace {

using namespace sparse_jax;

using Words = std::vector<uint16_t>;
using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;

struct Random {
  std::mt19937 bits{5};
  int64_t Below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  float Float() { return static_cast<float>(Below(2001) - 1000) / 250.0f; }
};

void TakesAndAdds() {
  Random random;
  for (int round = 0; round < 300; ++round) {
    const int64_t rows = random.Below(9), d = random.Below(40);
    Words table(static_cast<size_t>(rows * d));
    for (uint16_t& w : table) w = RoundWith(random.Float(), 0x8000);
    Ints ids;
    for (int32_t id = 0; id < rows; ++id) {
      if (random.Below(2)) ids.push_back(id);
    }
    for (const int32_t wild : {INT32_MIN, -1, static_cast<int32_t>(rows), INT32_MAX}) {
      ids.insert(ids.begin() + random.Below(static_cast<int64_t>(ids.size()) + 1), wild);
    }
    const int64_t n = static_cast<int64_t>(ids.size()), cut = random.Below(n + 1);
    Floats steps(static_cast<size_t>(n * d)), taken(steps.size(), 7.0f);
    for (float& x : steps) x = 0.01f * random.Float();
    const Words before = table;
    TakeBf16(ids.data(), cut, n, rows, d, table.data(), taken.data());  // in two parts, as threads
    TakeBf16(ids.data(), 0, cut, rows, d, table.data(), taken.data());
    AddBf16(ids.data(), cut, n, rows, d, 11, steps.data(), table.data());
    AddBf16(ids.data(), 0, cut, rows, d, 11, steps.data(), table.data());
    Words want = before;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id = ids[static_cast<size_t>(i)];
      for (int64_t k = 0; k < d; ++k) {
        const auto at = static_cast<size_t>(i * d + k);
        const bool in = id >= 0 && id < rows;
        const auto place = static_cast<size_t>(in ? id * d + k : 0);
        CHECK(taken[at] == (in ? Widen(before[place]) : 0.0f));
        if (!in) continue;
        const uint32_t noise = Priority(11, static_cast<uint32_t>(id), static_cast<uint32_t>(k));
        want[place] = RoundWith(Widen(before[place]) + steps[at], noise >> 16);
      }
    }
    CHECK(table == want);
  }
}

void RoundsWithoutBias() {
  for (const float x : {1.0f, 1.001f, -0.3f, 3.14159f, 1e-30f, 3e38f}) {
    double sum = 0;
    const float low = Widen(RoundWith(x, 0)), high = Widen(RoundWith(x, 0xffff));
    for (uint32_t noise = 0; noise <= 0xffff; ++noise) {
      const float y = Widen(RoundWith(x, noise));
      CHECK(y == low || y == high);
      sum += y;
    }
    CHECK(std::abs(sum / 65536 - double(x)) <= std::abs(double(x)) * 1e-9);
  }
}

void KeepsWhatIsNotFinite() {
  const float inf = std::numeric_limits<float>::infinity();
  for (const uint32_t noise : {0u, 0xffffu}) {
    CHECK(Widen(RoundWith(inf, noise)) == inf && Widen(RoundWith(-inf, noise)) == -inf);
    for (uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
      float nan;
      __builtin_memcpy(&nan, &bits, sizeof nan);
      CHECK(std::isnan(Widen(RoundWith(nan, noise))));
    }
  }
}

}  // namespace

int main() {
  TakesAndAdds();
  RoundsWithoutBias();
  KeepsWhatIsNotFinite();
  std::puts("test_bf16: ok");
}
