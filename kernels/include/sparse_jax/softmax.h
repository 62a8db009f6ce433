// The softmax cross-entropy of a shared active set, and its gradient, in one visit to each logit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "sparse_jax/bf16.h"
#include "sparse_jax/common.h"
#include "sparse_jax/lanes.h"

namespace sparse_jax {

struct SoftmaxTask {
  const float* logits;        // [rows, active]: w . h
  float* gradients;           // [rows, active]: begins as the logits; or null
  uint16_t* rounded;          // [rows, active], bfloat16 gradients instead; or null
  const float* bias;          // [active], added to every row; -inf leaves a place out
  const int32_t* label_rows;  // [entries], ascending
  const int32_t* positions;   // [entries]: the place of each label entry, out of range = padding
  int64_t active, entries;
  float* loss;                // [rows]
  int32_t* best;              // [rows]: the first place with the largest logit
};

// x <- exp(x) for x <= 0, within 2 units in the last place; exactly 0 below the smallest normal.
// Cody & Waite's reduction and the polynomial of Cephes' expf (Moshier, public domain).
template <int Parts>
SPARSE_JAX_INLINE void ExpLanes(typename Lanes<Parts>::Floats* x) {
  using Floats = typename Lanes<Parts>::Floats;
  using Ints = typename Lanes<Parts>::Ints;
  const Ints tiny = *x < -87.33654f;
  const Floats clamped = tiny ? Floats{} - 87.33654f : *x;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
  const Floats n = (clamped * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  const Floats r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &exponent, sizeof(scale));
  *x = tiny ? Floats{} : p * scale;
}

template <int Parts>
SPARSE_JAX_INLINE void AddBiasAndFindMaxLanes(float* row, const float* bias, int64_t n, float* most,
                                              int32_t* place) {
  using Floats = typename Lanes<Parts>::Floats;
  using Ints = typename Lanes<Parts>::Ints;
  constexpr int64_t kPart = kLanes / Parts;
  Floats best[Parts], z, b;
  Ints block_of[Parts];
  for (int part = 0; part < Parts; ++part) {
    best[part] = Floats{} - std::numeric_limits<float>::infinity();
    block_of[part] = Ints{};
  }
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int part = 0; part < Parts; ++part) {
      LoadLanes(row + i + part * kPart, &z);
      LoadLanes(bias + i + part * kPart, &b);
      z += b;
      StoreLanes(row + i + part * kPart, z);
      const Ints better = z > best[part];
      best[part] = better ? z : best[part];
      block_of[part] = better ? Ints{} + static_cast<int32_t>(i) : block_of[part];
    }
  }
  *most = -std::numeric_limits<float>::infinity();
  *place = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const float value = best[lane / kPart][lane % kPart];
    const int32_t at = block_of[lane / kPart][lane % kPart] + lane;
    if (value > *most || (value == *most && at < *place)) *most = value, *place = at;
  }
  for (; i < n; ++i) {
    row[i] += bias[i];
    if (row[i] > *most) *most = row[i], *place = static_cast<int32_t>(i);
  }
}

// Adds the bias to one row of logits and finds its first largest place.
SPARSE_JAX_BY_LANES(void, AddBiasAndFindMax,
                    (float* row, const float* bias, int64_t n, float* most, int32_t* place),
                    (row, bias, n, most, place))

template <int Parts>
SPARSE_JAX_INLINE float ExpAndSumLanes(float* row, int64_t n, float most) {
  using Floats = typename Lanes<Parts>::Floats;
  constexpr int64_t kPart = kLanes / Parts;
  Floats sums[Parts], z;
  for (Floats& sum : sums) sum = Floats{};
  auto sixteen = [&](float* from) __attribute__((always_inline)) {
    for (int part = 0; part < Parts; ++part) {
      LoadLanes(from + part * kPart, &z);
      z -= most;
      ExpLanes<Parts>(&z);
      StoreLanes(from + part * kPart, z);
      sums[part] += z;
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sixteen(row + i);
  if (i < n) {
    float rest[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) {
      rest[k] = i + k < n ? row[i + k] : -std::numeric_limits<float>::infinity();
    }
    sixteen(rest);
    std::memcpy(row + i, rest, static_cast<size_t>(n - i) * sizeof(float));
  }
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sums[lane / kPart][lane % kPart];
  return total;
}

// row <- exp(row - most); returns the sum.
SPARSE_JAX_BY_LANES(float, ExpAndSum, (float* row, int64_t n, float most), (row, n, most))

SPARSE_JAX_CLONES static void Scale(float* row, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

// Row b, whose logits stand in `row`: loss = logsumexp(z) - mean of z at the labels, z = logits + bias,
// and its gradient softmax(z) - (labels' shares) in their place. `e` is its first label entry, and
// that of the next row afterwards. A row without a label that stands in the set has loss and gradient
// 0. A row whose logits are all -inf, or hold NaN, is the caller's.
inline void SoftmaxRow(const SoftmaxTask& t, int64_t b, float* row, int64_t* e) {
  float most;
  AddBiasAndFindMax(row, t.bias, t.active, &most, t.best + b);
  const int64_t first = *e;
  int32_t labels = 0;
  float at_labels = 0;
  for (; *e < t.entries && t.label_rows[*e] == b; ++*e) {
    const int32_t place = t.positions[*e];
    if (place < 0 || place >= t.active) continue;
    ++labels;
    at_labels += row[place] - most;
  }
  t.loss[b] = 0;
  if (labels == 0) {
    std::memset(row, 0, static_cast<size_t>(t.active) * sizeof(float));
    return;
  }
  const float sum = ExpAndSum(row, t.active, most);
  Scale(row, t.active, 1.0f / sum);
  const float share = 1.0f / static_cast<float>(labels);
  t.loss[b] = std::log(sum) - at_labels * share;
  for (int64_t k = first; k < *e; ++k) {
    if (t.positions[k] >= 0 && t.positions[k] < t.active) row[t.positions[k]] -= share;
  }
}

// Rows [begin, end): their gradients in place of the logits, or, rounded, in `rounded` [rows, active].
inline void SoftmaxRows(const SoftmaxTask& t, int64_t begin, int64_t end) {
  const int32_t* last = t.label_rows + t.entries;
  int64_t e = std::lower_bound(t.label_rows, last, static_cast<int32_t>(begin)) - t.label_rows;
  if (t.rounded == nullptr) {
    for (int64_t b = begin; b < end; ++b) SoftmaxRow(t, b, t.gradients + b * t.active, &e);
    return;
  }
  std::vector<float> row(static_cast<size_t>(t.active));
  for (int64_t b = begin; b < end; ++b) {
    std::copy_n(t.logits + b * t.active, t.active, row.data());
    SoftmaxRow(t, b, row.data(), &e);
    RoundRow(row.data(), t.active, t.rounded + b * t.active);
  }
}

}  // namespace sparse_jax
