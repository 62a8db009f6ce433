// Rows in lists by a learned code, and the search of the lists that promise a query most.
//
// The first pass reads one byte a coordinate, of rows that lie list by list: a gather of rows that
// lie anywhere costs a cache and a page miss for each, seven times as much. Rows and list keys are
// integers in [-127, 127] with a scale each, queries integers of up to 15 bits. Their sums are
// exact, so which rows are looked at, and which are kept for an exact score, is one answer on every
// machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "sparse_jax/topk.h"

namespace sparse_jax {

// Byte arithmetic on AVX-512 wants its BW part, for which target_clones has no name.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define SPARSE_JAX_BYTE_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SPARSE_JAX_BYTE_CLONES
#endif

// Ids [0, n) by code, ascending within a code: list c is members[offsets[c]:offsets[c + 1]], and
// members[places[id]] = id. Ids whose code is outside [0, lists) stand behind the last list.
inline void SortByCode(const int32_t* codes, int64_t n, int64_t lists, int32_t* offsets,
                       int32_t* members, int32_t* places) {
  auto list = [lists](int32_t code) {
    return static_cast<size_t>(code >= 0 && code < lists ? code : lists);
  };
  std::vector<int32_t> next(static_cast<size_t>(lists) + 2, 0);
  for (int64_t i = 0; i < n; ++i) ++next[list(codes[i]) + 1];
  for (size_t c = 0; c <= static_cast<size_t>(lists); ++c) next[c + 1] += next[c];
  std::copy_n(next.begin(), lists + 1, offsets);
  for (int64_t i = 0; i < n; ++i) {
    places[i] = next[list(codes[i])]++;
    members[places[i]] = static_cast<int32_t>(i);
  }
}

// Vectors of bytes: v ~ scale * bytes, with an offset to its score.
struct ByteRows {
  const int8_t* bytes;   // [n, d]
  const float* scales;   // [n]
  const float* offsets;  // [n]
  int64_t n, d;
};

// row ~ scale * bytes, scale = max|row| / 127. A row that isn't finite gets the scale 0.
SPARSE_JAX_BYTE_CLONES static inline float ToBytes(const float* row, int64_t d, int8_t* bytes) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds half to even
  // Sizes as words: they order as floats do, with infinity and NaN behind all finite ones.
  uint32_t word = 0;
  for (int64_t i = 0; i < d; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, row + i, sizeof bits);
    bits &= 0x7fffffffu;
    word = bits > word ? bits : word;
  }
  float largest;
  __builtin_memcpy(&largest, &word, sizeof largest);
  const float scale = largest * (1.0f / 127.0f);
  if (word >= 0x7f800000u || !(scale >= std::numeric_limits<float>::min())) {
    std::fill_n(bytes, d, int8_t{0});
    return 0.0f;
  }
  const float inverse = 1.0f / scale;
  for (int64_t i = 0; i < d; ++i) {
    const float scaled = row[i] * inverse + kRounder;
    bytes[i] = static_cast<int8_t>(static_cast<int32_t>(scaled - kRounder));
  }
  return scale;
}

// Rows [begin, end) to their places in the list order: bytes, scales and biases. Reading in order
// and writing anywhere costs a third of the other way round.
template <typename W>
inline void PackRows(const W* weights, const float* bias, const int32_t* places, int64_t begin,
                     int64_t end, int64_t d, int8_t* bytes, float* scales, float* offsets) {
  constexpr int64_t kAhead = 8, kLine = 64;
  std::vector<float> widened;
  for (int64_t id = begin; id < end; ++id) {
    if (id + kAhead < end) {
      const int64_t next = places[id + kAhead];
      for (int64_t j = 0; j < d; j += kLine) __builtin_prefetch(bytes + next * d + j, 1);
      __builtin_prefetch(scales + next, 1);
      __builtin_prefetch(offsets + next, 1);
    }
    const int64_t place = places[id];
    const float* row = AsFloats(weights + id * d, d, &widened);
    scales[place] = ToBytes(row, d, bytes + place * d);
    offsets[place] = bias[id];
  }
}

struct ShortQuery {
  std::vector<int16_t> values;
  float scale;  // a power of two; query ~ scale * values
};

// The query as integers of magnitude up to 2^bits, rounded half to even after a shift by a power of
// two. NaN, infinite and subnormal coordinates count as zero.
inline ShortQuery ToShorts(const float* query, int64_t d, int bits) {
  ShortQuery out{std::vector<int16_t>(static_cast<size_t>(d), 0), 1.0f};
  auto word = [query](int64_t i) {
    uint32_t w;
    __builtin_memcpy(&w, query + i, sizeof w);
    return w & 0x7fffffffu;
  };
  auto usable = [&word](int64_t i) { return word(i) >= 0x00800000u && word(i) < 0x7f800000u; };
  uint32_t largest = 0;
  for (int64_t i = 0; i < d; ++i) {
    if (usable(i)) largest = std::max(largest, word(i));
  }
  // max|query| = f * 2^exponent with 1/2 <= f < 1.
  const int exponent = static_cast<int>(largest >> 23) - 126;
  const int shift = std::min(127, std::max(-126, bits - exponent));
  const float factor = std::ldexp(1.0f, shift);
  for (int64_t i = 0; i < d; ++i) {
    if (usable(i)) {
      out.values[static_cast<size_t>(i)] = static_cast<int16_t>(std::nearbyint(query[i] * factor));
    }
  }
  out.scale = std::ldexp(1.0f, std::max(-shift, -126));
  return out;
}

// score = offset + scale * query_scale * (bytes . query). The query is small enough for the sum to
// fit int32, and query_scale is a power of two, so that only one product and one sum round.
SPARSE_JAX_INLINE float ByteScore(const ByteRows& rows, int64_t row, const int16_t* query,
                                  float query_scale) {
  const int8_t* bytes = rows.bytes + row * rows.d;
  int32_t sum = 0;
  for (int64_t i = 0; i < rows.d; ++i) sum += static_cast<int32_t>(bytes[i]) * query[i];
  return static_cast<float>(sum) * (rows.scales[row] * query_scale) + rows.offsets[row];
}

SPARSE_JAX_BYTE_CLONES static inline void ByteScores(const ByteRows& rows, const int16_t* query,
                                                     float query_scale, float* out) {
  for (int64_t row = 0; row < rows.n; ++row) out[row] = ByteScore(rows, row, query, query_scale);
}

// Offers the rows at places [begin, end) to the best by first-pass score, under their ids.
SPARSE_JAX_BYTE_CLONES static inline void ByteScan(const ByteRows& rows, const int32_t* members,
                                                   const int16_t* query, float query_scale,
                                                   int64_t begin, int64_t end, TopK* best) {
  constexpr int64_t kAhead = 16;
  float floor = best->floor();
  for (int64_t p = begin; p < end; ++p) {
    // A list is short: it ends about when the machine's own prefetch has begun.
    __builtin_prefetch(rows.bytes + (p + kAhead) * rows.d);
    __builtin_prefetch(rows.bytes + (p + kAhead) * rows.d + 64);
    const float score = ByteScore(rows, p, query, query_scale);
    if (score < floor) continue;
    best->Offer(score, members[p]);
    floor = best->floor();
  }
}

struct Span {
  int64_t begin, end;
};

// The places of the lists by descending score, equal ones in order of list, `most` places in all;
// no span longer than `longest`. Offsets from a damaged state are never followed outside the rows.
inline std::vector<Span> Probe(const ByteRows& keys, const int32_t* offsets, int64_t num_rows,
                               const int16_t* query, float query_scale, int64_t most,
                               int64_t longest) {
  std::vector<float> scores(static_cast<size_t>(keys.n));
  ByteScores(keys, query, query_scale, scores.data());
  std::vector<std::pair<float, int64_t>> heap;
  heap.reserve(scores.size());
  for (int64_t c = 0; c < keys.n; ++c) {
    const float score = scores[static_cast<size_t>(c)];
    const bool sound = offsets[c] >= 0 && offsets[c + 1] <= num_rows;  // whatever state came in
    if (score == score && sound && offsets[c] < offsets[c + 1]) heap.emplace_back(score, -c);
  }
  std::make_heap(heap.begin(), heap.end());
  std::vector<Span> out;
  while (!heap.empty() && most > 0) {
    std::pop_heap(heap.begin(), heap.end());
    const int64_t c = -heap.back().second;
    heap.pop_back();
    const int64_t end = std::min<int64_t>(offsets[c + 1], offsets[c] + most);
    most -= end - offsets[c];
    for (int64_t begin = offsets[c]; begin < end; begin += longest) {
      out.push_back({begin, std::min(end, begin + longest)});
    }
  }
  return out;
}

}  // namespace sparse_jax
