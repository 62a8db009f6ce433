// The embedding bag over gathered rows, forward and backward.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "sparse_jax/common.h"
#include "sparse_jax/rows.h"

namespace sparse_jax {

// out[s] = sum of weights[e] * rows[positions[e]] over the entries e of segment s, in their order,
// for s in [begin, end); entries whose position is out of range are padding. Where `sorted` says
// that segments ascend, the entries are found by bisection; otherwise all are looked at.
inline void BagForward(const float* rows, int64_t num_rows, const int32_t* positions,
                       const int32_t* segments, const float* weights, int64_t entries, bool sorted,
                       int64_t begin, int64_t end, int64_t d, float* out) {
  constexpr int64_t kAhead = 6;  // rows lie anywhere: each is asked for before it is added
  std::fill(out + begin * d, out + end * d, 0.0f);
  int64_t e = 0;
  if (sorted) {
    e = std::lower_bound(segments, segments + entries, static_cast<int32_t>(begin)) - segments;
  }
  for (; e < entries; ++e) {
    if (segments[e] >= end && sorted) break;
    const int64_t soon = e + kAhead;
    if (soon < entries && positions[soon] >= 0 && positions[soon] < num_rows) {
      Prefetch(rows + positions[soon] * d, d * static_cast<int64_t>(sizeof(float)));
    }
    if (segments[e] < begin || segments[e] >= end) continue;
    if (positions[e] < 0 || positions[e] >= num_rows) continue;
    AddScaled(out + segments[e] * d, rows + positions[e] * d, weights[e], d);
  }
}

// grad_rows[p] = sum of weights[e] * grad_out[segments[e]] over the entries e at position p, in
// their order, for p in [begin, end): each row is summed by one task, so the bits are fixed.
inline void BagBackward(const float* grad_out, int64_t num_segments, const int32_t* segments,
                        const float* weights, const ByPosition& sorted, int64_t begin, int64_t end,
                        int64_t d, float* grad_rows) {
  std::fill(grad_rows + begin * d, grad_rows + end * d, 0.0f);
  for (int64_t p = begin; p < end; ++p) {
    for (int32_t k = sorted.starts[static_cast<size_t>(p)];
         k < sorted.starts[static_cast<size_t>(p) + 1]; ++k) {
      const int32_t e = sorted.order[static_cast<size_t>(k)];
      if (segments[e] < 0 || segments[e] >= num_segments) continue;
      AddScaled(grad_rows + p * d, grad_out + segments[e] * d, weights[e], d);
    }
  }
}

}  // namespace sparse_jax
