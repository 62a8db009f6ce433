// Adam on the touched rows of a table, its two moments read and written where they lie.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "sparse_jax/common.h"

namespace sparse_jax {

struct AdamScalars {
  float b1, b2, rest1, rest2;      // rest = 1 - b, rounded once: 1.0f - 0.999f is off by 1e-5
  float eps, eps_root;
  float correction1, correction2;  // 1 - b^count
  float rate;                      // the step size, its sign included
};

// One row: the moments move on, and the gradient becomes the update. The corrections for the count
// are multiplied by, not divided by as in Optax: a division takes as long as all else of a number.
SPARSE_JAX_CLONES static void AdamRow(float* __restrict__ grad, float* __restrict__ mu,
                                      float* __restrict__ nu, int64_t d, AdamScalars s) {
  const float rate = s.rate / s.correction1, correct2 = 1.0f / s.correction2;
  for (int64_t i = 0; i < d; ++i) {
    const float g = grad[i];
    const float m = s.rest1 * g + s.b1 * mu[i];
    const float v = s.rest2 * (g * g) + s.b2 * nu[i];
    mu[i] = m;
    nu[i] = v;
    grad[i] = rate * m / (std::sqrt(v * correct2 + s.eps_root) + s.eps);
  }
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

}  // namespace sparse_jax
