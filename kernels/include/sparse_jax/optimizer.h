// Adam on the touched rows of a table, its two moments read and written where they lie.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "sparse_jax/common.h"
#include "sparse_jax/lanes.h"

namespace sparse_jax {

struct AdamScalars {
  float b1, b2, rest1, rest2;      // rest = 1 - b, rounded once: 1.0f - 0.999f is off by 1e-5
  float eps, eps_root;
  float correction1, correction2;  // 1 - b^count
  float rate;                      // the step size, its sign included
};

// One row: the moments move on, and the gradient's update is stored in `to`, or added to it. The
// corrections for the count are multiplied by, not divided by as in Optax: a division takes as long
// as all else of a number.
template <bool Add>
SPARSE_JAX_INLINE void AdamRowInto(const float* grad, float* mu, float* nu, float* to, int64_t d,
                                   const AdamScalars& s) {
  const float rate = s.rate / s.correction1, correct2 = 1.0f / s.correction2;
  const float b1 = s.b1, b2 = s.b2, rest1 = s.rest1, rest2 = s.rest2;
  const float eps = s.eps, eps_root = s.eps_root;
#pragma GCC ivdep
  for (int64_t i = 0; i < d; ++i) {
    const float g = grad[i];
    const float m = rest1 * g + b1 * mu[i];
    const float v = rest2 * (g * g) + b2 * nu[i];
    mu[i] = m;
    nu[i] = v;
    const float update = rate * m / (std::sqrt(v * correct2 + eps_root) + eps);
    to[i] = Add ? to[i] + update : update;
  }
}

SPARSE_JAX_CLONES static void AdamRow(float* grad, float* mu, float* nu, int64_t d, AdamScalars s) {
  AdamRowInto<false>(grad, mu, nu, grad, d, s);
}

SPARSE_JAX_CLONES static void AdamRowAdded(const float* __restrict__ grad, float* __restrict__ mu,
                                           float* __restrict__ nu, float* __restrict__ row,
                                           int64_t d, AdamScalars s) {
  AdamRowInto<true>(grad, mu, nu, row, d, s);
}

// Rows [begin, end) of the gradient [n, d]; ids are distinct, those out of range are padding, whose
// update is 0.
inline void AdamRows(const int32_t* ids, int64_t begin, int64_t end, int64_t num_rows, int64_t d,
                     const AdamScalars& s, float* mu, float* nu, float* grad) {
  constexpr int64_t kAhead = 6;
  const int64_t bytes = d * static_cast<int64_t>(sizeof(float));
  auto in_range = [&](int64_t i) { return ids[i] >= 0 && ids[i] < num_rows; };
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end && in_range(i + kAhead)) {
      Prefetch(mu + ids[i + kAhead] * d, bytes);
      Prefetch(nu + ids[i + kAhead] * d, bytes);
    }
    if (in_range(i)) {
      AdamRow(grad + i * d, mu + ids[i] * d, nu + ids[i] * d, d, s);
    } else {
      for (int64_t k = 0; k < d; ++k) grad[i * d + k] = 0.0f;
    }
  }
}

// The same with the updates added to the rows of `table`: three rows far apart, one visit to each.
inline void AdamRowsAdded(const int32_t* ids, int64_t begin, int64_t end, int64_t num_rows,
                          int64_t d, const AdamScalars& s, const float* grad, float* mu, float* nu,
                          float* table) {
  constexpr int64_t kAhead = 6;
  const int64_t bytes = d * static_cast<int64_t>(sizeof(float));
  auto in_range = [&](int64_t i) { return ids[i] >= 0 && ids[i] < num_rows; };
  for (int64_t i = begin; i < end; ++i) {
    if (i + kAhead < end && in_range(i + kAhead)) {
      for (float* from : {mu, nu, table}) Prefetch(from + ids[i + kAhead] * d, bytes);
    }
    if (!in_range(i)) continue;
    const int64_t at = ids[i] * d;
    AdamRowAdded(grad + i * d, mu + at, nu + at, table + at, d, s);
  }
}

}  // namespace sparse_jax
