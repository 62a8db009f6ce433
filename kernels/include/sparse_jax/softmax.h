// The softmax cross-entropy of a shared active set, and its gradient, in one visit to each logit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "sparse_jax/common.h"

namespace sparse_jax {

// Sixteen floats. The compiler splits them where registers are narrower; as each lane keeps its own
// partial sum and nothing is contracted, the bits are the same on every machine.
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t LaneInts __attribute__((vector_size(64)));
constexpr int64_t kLanes = 16;

struct SoftmaxTask {
  float* logits;              // [rows, active]: w . h on entry, the gradient on return
  const float* bias;          // [active], added to every row; -inf leaves a place out
  const int32_t* label_rows;  // [entries], ascending
  const int32_t* positions;   // [entries]: the place of each label entry, out of range = padding
  int64_t active, entries;
  float* loss;                // [rows]
  int32_t* best;              // [rows]: the first place with the largest logit
};

#define SPARSE_JAX_INLINE __attribute__((always_inline)) inline

SPARSE_JAX_INLINE void LoadLanes(const float* from, Lanes* to) { std::memcpy(to, from, sizeof(*to)); }
SPARSE_JAX_INLINE void StoreLanes(float* to, const Lanes& from) {
  std::memcpy(to, &from, sizeof(from));
}

// x <- exp(x) for x <= 0, within 2 units in the last place; exactly 0 below the smallest normal.
// Cody & Waite's reduction and the polynomial of Cephes' expf (Moshier, public domain).
SPARSE_JAX_INLINE void ExpLanes(Lanes* x) {
  const LaneInts tiny = *x < -87.33654f;
  const Lanes clamped = tiny ? Lanes{} - 87.33654f : *x;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
  const Lanes n = (clamped * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  const Lanes r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  Lanes p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const LaneInts exponent = (__builtin_convertvector(n, LaneInts) + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &exponent, sizeof(scale));
  *x = tiny ? Lanes{} : p * scale;
}

// Adds the bias to one row of logits and finds its first largest place.
SPARSE_JAX_CLONES static void AddBiasAndFindMax(float* row, const float* bias, int64_t n,
                                                float* most, int32_t* place) {
  Lanes best = Lanes{} - std::numeric_limits<float>::infinity(), z, b;
  LaneInts block_of = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    LoadLanes(row + i, &z);
    LoadLanes(bias + i, &b);
    z += b;
    StoreLanes(row + i, z);
    const LaneInts better = z > best;
    best = better ? z : best;
    block_of = better ? LaneInts{} + static_cast<int32_t>(i) : block_of;
  }
  *most = -std::numeric_limits<float>::infinity();
  *place = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int32_t at = block_of[lane] + lane;
    if (best[lane] > *most || (best[lane] == *most && at < *place)) *most = best[lane], *place = at;
  }
  for (; i < n; ++i) {
    row[i] += bias[i];
    if (row[i] > *most) *most = row[i], *place = static_cast<int32_t>(i);
  }
}

// row <- exp(row - most); returns the sum.
SPARSE_JAX_CLONES static float ExpAndSum(float* row, int64_t n, float most) {
  Lanes sum = {}, z;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    LoadLanes(row + i, &z);
    z -= most;
    ExpLanes(&z);
    StoreLanes(row + i, z);
    sum += z;
  }
  if (i < n) {
    float rest[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) {
      rest[k] = i + k < n ? row[i + k] : -std::numeric_limits<float>::infinity();
    }
    LoadLanes(rest, &z);
    z -= most;
    ExpLanes(&z);
    StoreLanes(rest, z);
    std::memcpy(row + i, rest, static_cast<size_t>(n - i) * sizeof(float));
    sum += z;
  }
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

SPARSE_JAX_CLONES static void Scale(float* row, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

// Rows [begin, end): loss = logsumexp(z) - mean of z at the labels, z = logits + bias, and its
// gradient softmax(z) - (labels' shares) in place of the logits. A row without a label that stands
// in the set has loss and gradient 0. A row whose logits are all -inf, or hold NaN, is the caller's.
inline void SoftmaxRows(const SoftmaxTask& t, int64_t begin, int64_t end) {
  const int32_t* last = t.label_rows + t.entries;
  int64_t e = std::lower_bound(t.label_rows, last, static_cast<int32_t>(begin)) - t.label_rows;
  for (int64_t b = begin; b < end; ++b) {
    float* row = t.logits + b * t.active;
    float most;
    AddBiasAndFindMax(row, t.bias, t.active, &most, t.best + b);
    const int64_t first = e;
    int32_t labels = 0;
    float at_labels = 0;
    for (; e < t.entries && t.label_rows[e] == b; ++e) {
      if (t.positions[e] < 0 || t.positions[e] >= t.active) continue;
      ++labels;
      at_labels += row[t.positions[e]] - most;
    }
    t.loss[b] = 0;
    if (labels == 0) {
      std::memset(row, 0, static_cast<size_t>(t.active) * sizeof(float));
      continue;
    }
    const float sum = ExpAndSum(row, t.active, most);
    Scale(row, t.active, 1.0f / sum);
    const float share = 1.0f / static_cast<float>(labels);
    t.loss[b] = std::log(sum) - at_labels * share;
    for (int64_t k = first; k < e; ++k) {
      if (t.positions[k] >= 0 && t.positions[k] < t.active) row[t.positions[k]] -= share;
    }
  }
}

}  // namespace sparse_jax
