// The embedding bag against brute force.
#include "sparse_jax/bag.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

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

bool SameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Both directions, whole and in parts, equal a loop over the entries in their order, bit for bit.
void Bags() {
  Random random;
  for (int round = 0; round < 300; ++round) {
    const int64_t n = random.Below(12), segs = random.Below(9), d = random.Below(6);
    const auto entries = static_cast<size_t>(random.Below(40));
    Floats rows(static_cast<size_t>(n * d)), grad(static_cast<size_t>(segs * d)), weights(entries);
    for (Floats* values : {&rows, &grad, &weights}) {
      for (float& x : *values) x = random.Float();
    }
    Ints positions(entries), segments(entries);
    for (int32_t& p : positions) p = random.Id(n);
    for (int32_t& s : segments) s = random.Id(segs);
    const bool ascending = random.Below(2) == 0;
    if (ascending) std::sort(segments.begin(), segments.end());

    Floats want_out(grad.size(), 0.0f), want_rows(rows.size(), 0.0f);
    for (size_t e = 0; e < entries; ++e) {
      const int64_t p = positions[e], s = segments[e];
      if (p < 0 || p >= n || s < 0 || s >= segs) continue;
      for (int64_t i = 0; i < d; ++i) {
        const auto r = static_cast<size_t>(p * d + i), o = static_cast<size_t>(s * d + i);
        want_out[o] += weights[e] * rows[r];
        want_rows[r] += weights[e] * grad[o];
      }
    }

    Floats out(grad.size(), 9.0f), grad_rows(rows.size(), 9.0f);
    const int64_t cut = random.Below(segs + 1), row_cut = random.Below(n + 1);
    const auto count = static_cast<int64_t>(entries);
    const auto forward = [&](int64_t begin, int64_t end) {
      sparse_jax::BagForward(rows.data(), n, positions.data(), segments.data(), weights.data(),
                             count, ascending, begin, end, d, out.data());
    };
    forward(cut, segs);
    forward(0, cut);
    CHECK(SameBits(out, want_out));
    const sparse_jax::ByPosition sorted =
        sparse_jax::SortByPosition(positions.data(), count, n);
    const auto backward = [&](int64_t begin, int64_t end) {
      sparse_jax::BagBackward(grad.data(), segs, segments.data(), weights.data(), sorted, begin,
                              end, d, grad_rows.data());
    };
    backward(row_cut, n);
    backward(0, row_cut);
    CHECK(SameBits(grad_rows, want_rows));
  }
}

// Unsorted segments called sorted: any answer will do, but no step outside the arrays.
void UnsortedSegmentsStayInside() {
  const Floats rows(4, 1.0f), weights(5, 1.0f);
  const Ints positions = {0, 1, 0, 1, 0}, segments = {2, INT32_MIN, 1, INT32_MAX, 0};
  Floats out(6, 0.0f);
  for (int64_t s = 0; s < 3; ++s) {
    sparse_jax::BagForward(rows.data(), 2, positions.data(), segments.data(), weights.data(), 5, true,
                           s, s + 1, 2, out.data());
  }
}

}  // namespace

int main() {
  Bags();
  UnsortedSegmentsStayInside();
  std::puts("test_bag: ok");
}
