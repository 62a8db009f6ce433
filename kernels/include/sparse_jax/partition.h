// log sum_w exp(q . w + b_w) of many queries over one table of rows, without writing the logits.
//
// Rows and queries are rounded to 16-bit integers, each with a scale of its own: one instruction then
// multiplies twice as many pairs as in float32, and sums of products are exact. A logit is off by
// some |q| |w| / 80,000. Errors of many small terms cancel; terms of more than 2^-kExactBits of the
// sum are taken in float32 in the end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "sparse_jax/common.h"
#include "sparse_jax/partition_tile.h"

namespace sparse_jax {

constexpr int64_t kTaskTiles = 16;  // tiles of queries that share one visit of the table
constexpr int kExactBits = 10;

// The lengths of queries and rows as integers: sums of products stay below 2^31 (Cauchy and
// Schwarz). A query's rounding is the same in all of its terms and doesn't cancel, so queries are
// the finer.
constexpr double kQueryLength = 92000, kRowLength = 23300;
constexpr int64_t kMostCoordinates = 1 << 20;

// The scale that makes integers of a vector, none above 32,767. 0 for zeros, NaN where a coordinate
// is not finite.
SPARSE_JAX_CLONES static float IntegerScale(const float* x, int64_t d, double length) {
  const int64_t whole = d / kLanes * kLanes;
  float sizes[kLanes] = {}, squares[kLanes] = {};
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) {
      const float size = std::fabs(x[i + k]);
      sizes[k] = size > sizes[k] ? size : sizes[k];
    }
  }
  float largest = *std::max_element(sizes, sizes + kLanes);
  for (int64_t i = whole; i < d; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float inverse = 1.0f / std::max(largest, 1e-37f);
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) squares[k] += (x[i + k] * inverse) * (x[i + k] * inverse);
  }
  double total = 0;  // squares of the shares of the largest: 1 to d, or NaN
  for (float square : squares) total += square;
  for (int64_t i = whole; i < d; ++i) total += (x[i] * inverse) * (x[i] * inverse);
  if (std::isnan(total) || std::isinf(largest)) return std::numeric_limits<float>::quiet_NaN();
  if (largest < 1e-37f) return 0;
  const double room = length - std::sqrt(static_cast<double>(d));
  return static_cast<float>(std::min({room / std::sqrt(total), 32767.0, 1e37 * largest}) / largest);
}

// The integers nearest to scale * x. Adding 1.5 * 2^23 leaves them in the last bits.
SPARSE_JAX_CLONES static void ToIntegers(const float* x, int64_t d, float scale, int16_t* to) {
  for (int64_t i = 0; i < d; ++i) {
    const float shifted = x[i] * scale + 12582912.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    to[i] = static_cast<int16_t>(bits);
  }
}

// Vectors as integers, `wide` of them side by side: [pairs of coordinates, wide, 2], zeros for those
// behind n. A vector is steps[k] times its integers.
inline void Interleave(const float* x, int64_t n, int64_t d, int64_t wide, double length,
                       int16_t* codes, float* steps) {
  const int64_t pairs = (d + 1) / 2;
  std::vector<int16_t> one(static_cast<size_t>(pairs * 2), 0);
  for (int64_t k = 0; k < wide; ++k) {
    const float scale = k < n ? IntegerScale(x + k * d, d, length) : 0;
    steps[k] = scale == 0 ? 0 : 1.0f / scale;
    if (scale > 0) {
      ToIntegers(x + k * d, d, scale, one.data());
    } else {
      std::fill(one.begin(), one.end(), int16_t{0});
    }
    for (int64_t i = 0; i < pairs; ++i) {
      std::memcpy(codes + (i * wide + k) * 2, one.data() + 2 * i, 2 * sizeof(int16_t));
    }
  }
}

// Rows as integers: [groups of kLanes, pairs of coordinates, kLanes, 2].
struct IntegerRows {
  const float* rows;  // [n, d]
  const float* bias;  // [n]
  int64_t n, d, pairs, panels;
  std::vector<int16_t> codes;
  std::vector<float> steps, starts;  // [panels * kPanelRows], times log2(e); -inf starts behind n

  IntegerRows(const float* of_rows, const float* of_bias, int64_t count, int64_t size)
      : rows(of_rows), bias(of_bias), n(count), d(size), pairs((size + 1) / 2),
        panels((count + kPanelRows - 1) / kPanelRows),
        codes(static_cast<size_t>(panels * kPanelRows * pairs * 2)),
        steps(static_cast<size_t>(panels * kPanelRows)), starts(steps.size()) {}

  void Fill(int64_t panel) {
    for (int64_t r = panel * kPanelRows; r < (panel + 1) * kPanelRows; r += kLanes) {
      const int64_t held = std::clamp<int64_t>(n - r, 0, kLanes);
      Interleave(rows + std::min(r, n) * d, held, d, kLanes, kRowLength,
                 codes.data() + r * pairs * 2, steps.data() + r);
      for (int64_t k = 0; k < kLanes; ++k) {
        const auto at = static_cast<size_t>(r + k);
        steps[at] *= kLog2E;
        starts[at] = k < held ? bias[r + k] * kLog2E : -std::numeric_limits<float>::infinity();
      }
    }
  }
};

// A term that may hold much of a sum.
struct LargeTerm {
  int64_t row;
  float logit;  // times log2(e), of integers
};

// The sum of one query so far: total * 2^most.
struct Partition {
  double total = 0;
  float most = kLowest;
  std::vector<LargeTerm> large;

  // Terms above this hold more than some 2^-kExactBits of the sum.
  float Bar() const {
    return most + static_cast<float>(total > 1 ? std::ilogb(total) : 0) - kExactBits;
  }

  // Adds a panel, whose first row is `at`.
  void Add(int64_t at, float highest, const float* logits) {
    if (highest > most) {
      total *= std::exp2(static_cast<double>(most) - highest);
      most = highest;
    }
    total += PanelSum(logits, most);
    const float bar = Bar();
    if (!(highest > bar)) return;
    for (uint64_t above = PanelAbove(logits, bar); above != 0; above &= above - 1) {
      const int64_t i = LowestBit(above);
      large.push_back({at + i, logits[i]});
    }
  }

  // The logarithm, with the terms in float32 that are large now that all have been added.
  float Log(const IntegerRows& table, const float* query) {
    const float bar = Bar();
    large.erase(std::remove_if(large.begin(), large.end(),
                               [bar](const LargeTerm& term) { return !(term.logit > bar); }),
                large.end());
    constexpr float kNone = -std::numeric_limits<float>::infinity();
    float rounded[kPanelRows], exact[kPanelRows];
    for (size_t first = 0; first < large.size(); first += kPanelRows) {
      const size_t held = std::min<size_t>(large.size() - first, kPanelRows);
      for (size_t k = 0; k < held; ++k) {
        Prefetch(table.rows + large[first + k].row * table.d, table.d * 4);
      }
      for (size_t k = 0; k < kPanelRows; ++k) {
        rounded[k] = exact[k] = kNone;
        if (k >= held) continue;
        const LargeTerm& term = large[first + k];
        rounded[k] = term.logit;
        exact[k] = (Dot(query, table.rows + term.row * table.d, table.d) + table.bias[term.row]) * kLog2E;
      }
      total += static_cast<double>(PanelSum(exact, most)) - PanelSum(rounded, most);
    }
    if (most == kLowest && !std::isnan(total)) return kNone;  // of no row at all
    return static_cast<float>(std::log(total) + most / static_cast<double>(kLog2E));
  }
};

// out[b] of queries [0, n), n at most kTaskTiles * kTileQueries.
inline void LogPartitions(const IntegerRows& table, const float* queries, int64_t n, float* out) {
  const int64_t tiles = (n + kTileQueries - 1) / kTileQueries;
  const int64_t words = table.pairs * kTileQueries * 2;
  std::vector<int16_t> codes(static_cast<size_t>(tiles * words));
  std::vector<float> steps(static_cast<size_t>(tiles * kTileQueries));
  std::vector<Partition> found(steps.size());
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = t * kTileQueries;
    Interleave(queries + first * table.d, std::min(kTileQueries, n - first), table.d, kTileQueries,
               kQueryLength, codes.data() + t * words, steps.data() + first);
  }
  alignas(64) int32_t sums[kTileQueries * kPanelRows];
  alignas(64) float logits[kPanelRows];
  for (int64_t panel = 0; panel < table.panels; ++panel) {
    const int64_t at = panel * kPanelRows;
    const int16_t* rows = table.codes.data() + at * table.pairs * 2;
    for (int64_t t = 0; t < tiles; ++t) {
      for (int64_t i = 0; i < kPanelRows; i += kLanes) {
        TileProducts(codes.data() + t * words, rows + i * table.pairs * 2, table.pairs, sums + i);
      }
      for (int64_t j = t * kTileQueries; j < std::min(n, (t + 1) * kTileQueries); ++j) {
        const auto b = static_cast<size_t>(j);
        const float highest =
            PanelLogits(sums + j % kTileQueries * kPanelRows, table.steps.data() + at,
                        table.starts.data() + at, steps[b], logits);
        found[b].Add(at, highest, logits);
      }
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    out[j] = found[static_cast<size_t>(j)].Log(table, queries + j * table.d);
  }
}

}  // namespace sparse_jax
