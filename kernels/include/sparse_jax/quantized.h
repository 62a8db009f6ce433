// The scan of product-quantized rows: sums of table entries that half-bytes choose, and the rows
// with the best sums.
//
// Rows lie in blocks of 32, and a block pair of subspaces by pair: byte r of pair j holds the code
// of row r in subspace 2j (low half) and 2j + 1 (high half). So one load brings a pair for 32 rows,
// and one shuffle of a register looks up 32 entries of a 16-entry table (Andre, Kermarrec & Le
// Scouarnec, "Cache locality is not enough", VLDB 2015). Entries are bytes and sums are exact, so
// every machine finds the same rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "sparse_jax/common.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace sparse_jax {

SPARSE_JAX_INTRINSICS_BEGIN

constexpr int64_t kBlockRows = 32;
constexpr int64_t kTableEntries = 16;
constexpr int64_t kAheadBytes = 4096;  // the machine's own prefetch stops at the end of a page

// sums[32 i + r] = the entries of row r of block i, added up. `tables` is [2 pairs, 16].
inline void BlockSumsPlain(const uint8_t* codes, const uint8_t* tables, int64_t pairs,
                           int64_t blocks, uint16_t* sums) {
  for (int64_t i = 0; i < blocks; ++i, sums += kBlockRows) {
    std::fill_n(sums, kBlockRows, uint16_t{0});
    const uint8_t* table = tables;
    for (int64_t j = 0; j < pairs; ++j, codes += kBlockRows, table += 2 * kTableEntries) {
#if defined(__aarch64__)
      const uint8x16_t low = vld1q_u8(table), high = vld1q_u8(table + kTableEntries);
      for (int64_t r = 0; r < kBlockRows; r += 16) {
        const uint8x16_t both = vld1q_u8(codes + r);
        const uint8x16_t a = vqtbl1q_u8(low, vandq_u8(both, vdupq_n_u8(15)));
        const uint8x16_t b = vqtbl1q_u8(high, vshrq_n_u8(both, 4));
        const uint16x8_t first = vaddl_u8(vget_low_u8(a), vget_low_u8(b));
        const uint16x8_t second = vaddl_u8(vget_high_u8(a), vget_high_u8(b));
        vst1q_u16(sums + r, vaddq_u16(vld1q_u16(sums + r), first));
        vst1q_u16(sums + r + 8, vaddq_u16(vld1q_u16(sums + r + 8), second));
      }
#else
      for (int64_t r = 0; r < kBlockRows; ++r) {
        sums[r] = static_cast<uint16_t>(sums[r] + table[codes[r] & 15] +
                                        table[kTableEntries + (codes[r] >> 4)]);
      }
#endif
    }
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// The same. Entries are added as 16-bit words, those of odd rows apart; what they leave in the
// even rows' words is taken off at the end, modulo 2^16.
__attribute__((target("avx2"))) inline void BlockSumsAvx2(const uint8_t* codes,
                                                          const uint8_t* tables, int64_t pairs,
                                                          int64_t blocks, uint16_t* sums) {
  const __m256i half = _mm256_set1_epi8(15);
  for (int64_t i = 0; i < blocks; ++i, sums += kBlockRows) {
    __m256i words = _mm256_setzero_si256(), odd = words;
    const uint8_t* table = tables;
    for (int64_t j = 0; j < pairs; ++j, codes += kBlockRows, table += 2 * kTableEntries) {
      __builtin_prefetch(codes + kAheadBytes);
      const auto* entries = reinterpret_cast<const __m128i*>(table);
      const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128(entries));
      const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128(entries + 1));
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
      const __m256i a = _mm256_shuffle_epi8(low, _mm256_and_si256(both, half));
      const __m256i b =
          _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(both, 4), half));
      words = _mm256_add_epi16(words, _mm256_add_epi16(a, b));
      odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)));
    }
    const __m256i even = _mm256_sub_epi16(words, _mm256_slli_epi16(odd, 8));
    const __m256i first = _mm256_unpacklo_epi16(even, odd);   // rows 0-7 and 16-23
    const __m256i second = _mm256_unpackhi_epi16(even, odd);  // rows 8-15 and 24-31
    auto* out = reinterpret_cast<__m256i*>(sums);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(first, second, 0x31));
  }
}

// The same for two pairs side by side, and `Blocks` blocks that share their tables.
template <int Blocks>
__attribute__((target("avx512f,avx512bw"))) inline void BlockSumsAvx512(
    const uint8_t* codes, const uint8_t* tables, int64_t pairs, int64_t blocks, uint16_t* sums) {
  const __m512i half = _mm512_set1_epi8(15);
  for (int64_t at = 0; at < blocks; at += Blocks) {
    __m512i words[Blocks], odd[Blocks];
    SPARSE_JAX_UNROLL
    for (int b = 0; b < Blocks; ++b) words[b] = odd[b] = _mm512_setzero_si512();
    for (int64_t j = 0; j < pairs; j += 2) {
      // Behind the last pair: entries of zero.
      const __mmask16 present = j + 1 < pairs ? 0xffff : 0x00ff;
      const __m512i table = _mm512_maskz_loadu_epi32(present, tables + j * 2 * kTableEntries);
      const __m512i low = _mm512_shuffle_i64x2(table, table, 0xa0);   // of the first of each pair
      const __m512i high = _mm512_shuffle_i64x2(table, table, 0xf5);  // and of the second
      const uint8_t* from = codes + (at * pairs + j) * kBlockRows;
      SPARSE_JAX_UNROLL
      for (int b = 0; b < Blocks; ++b, from += pairs * kBlockRows) {
        __builtin_prefetch(from + kAheadBytes);
        const __m512i both = _mm512_maskz_loadu_epi32(present, from);
        const __m512i a = _mm512_shuffle_epi8(low, _mm512_and_si512(both, half));
        const __m512i c =
            _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16(both, 4), half));
        words[b] = _mm512_add_epi16(words[b], _mm512_add_epi16(a, c));
        odd[b] = _mm512_add_epi16(
            odd[b], _mm512_add_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(c, 8)));
      }
    }
    for (int b = 0; b < Blocks; ++b, sums += kBlockRows) {
      const __m512i even_words = _mm512_sub_epi16(words[b], _mm512_slli_epi16(odd[b], 8));
      const __m256i even = _mm256_add_epi16(_mm512_castsi512_si256(even_words),
                                            _mm512_extracti64x4_epi64(even_words, 1));
      const __m256i odds = _mm256_add_epi16(_mm512_castsi512_si256(odd[b]),
                                            _mm512_extracti64x4_epi64(odd[b], 1));
      const __m256i first = _mm256_unpacklo_epi16(even, odds);   // rows 0-7 and 16-23
      const __m256i second = _mm256_unpackhi_epi16(even, odds);  // rows 8-15 and 24-31
      auto* out = reinterpret_cast<__m256i*>(sums);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(first, second, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(first, second, 0x31));
    }
  }
}
#endif

inline void BlockSums(const uint8_t* codes, const uint8_t* tables, int64_t pairs, int64_t blocks,
                      uint16_t* sums) {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool kAvx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  if (kAvx512) {
    const int64_t fours = blocks / 4 * 4;
    BlockSumsAvx512<4>(codes, tables, pairs, fours, sums);
    codes += fours * pairs * kBlockRows, sums += fours * kBlockRows;
    return BlockSumsAvx512<1>(codes, tables, pairs, blocks - fours, sums);
  }
  static const bool kAvx2 = __builtin_cpu_supports("avx2");
  if (kAvx2) return BlockSumsAvx2(codes, tables, pairs, blocks, sums);
#endif
  BlockSumsPlain(codes, tables, pairs, blocks, sums);
}

// The best `limit` of what was offered, as a set: larger scores first, equal ones in order of id.
// For hundreds of entries, where `TopK` would move half of them at each offer. -inf and NaN never
// enter.
class Shortlist {
 public:
  explicit Shortlist(int64_t limit) : limit_(static_cast<size_t>(limit)) {}

  float floor() const { return floor_; }

  void Offer(float score, int32_t id) {
    if (score >= floor_) Push(Key(score, id));
  }

  void Merge(const Shortlist& other) {
    for (const uint64_t key : other.keys_) Push(key);
  }

  // Writes `limit` ids, best first; -1 behind the last.
  void Write(int32_t* ids) {
    Shrink();
    std::sort(keys_.begin(), keys_.end(), std::greater<>());
    for (size_t i = 0; i < limit_; ++i) ids[i] = i < keys_.size() ? Id(keys_[i]) : -1;
  }

 private:
  static constexpr size_t kSlack = 64;

  // A word that is larger for the better entry: selecting among words takes half the time. Words of
  // floats order as they do once negative ones are turned over.
  static uint64_t Key(float score, int32_t id) {
    const float whole = score + 0.0f;  // no -0
    uint32_t word;
    __builtin_memcpy(&word, &whole, sizeof word);
    word ^= word >> 31 ? 0xffffffffu : 0x80000000u;
    return uint64_t{word} << 32 | ~static_cast<uint32_t>(id);
  }
  static int32_t Id(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }
  static float Score(uint64_t key) {
    uint32_t word = static_cast<uint32_t>(key >> 32);
    word ^= word >> 31 ? 0x80000000u : 0xffffffffu;
    float score;
    __builtin_memcpy(&score, &word, sizeof score);
    return score;
  }

  void Push(uint64_t key) {
    keys_.push_back(key);
    if (keys_.size() >= 2 * limit_ + kSlack) Shrink();
  }

  void Shrink() {
    if (keys_.size() <= limit_) return;
    const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(limit_) - 1;
    std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
    floor_ = Score(*last);
    keys_.resize(limit_);
  }

  size_t limit_;
  float floor_ = std::numeric_limits<float>::lowest();
  std::vector<uint64_t> keys_;
};

// Rows in blocks: codes [blocks, pairs, 32], scales and biases [32 blocks].
struct QuantizedRows {
  const uint8_t* codes;
  const float *scales, *biases;
  int64_t blocks, pairs;
};

// Queries: tables [n, 2 pairs, 16], to whose sums `below` is added; a step of these is worth `steps`.
struct QuantizedQueries {
  const uint8_t* tables;
  const int32_t* below;
  const float* steps;
  int64_t n;
};

constexpr int64_t kChunkBlocks = 32;  // sums of 1,024 rows at a time stay in the L1 cache

// Offers n rows from `first` on, with scores (sum + below) * (step * scale) + bias.
SPARSE_JAX_CLONES static inline void OfferChunk(const uint16_t* sums, const float* scales,
                                                const float* biases, int32_t below, float step,
                                                int64_t n, int64_t first, Shortlist* best) {
  float scores[kBlockRows];
  int32_t good[kBlockRows];
  for (int64_t block = 0; block < n; block += kBlockRows) {
    Prefetch(scales + block + kChunkBlocks * kBlockRows, kBlockRows * sizeof(float));
    Prefetch(biases + block + kChunkBlocks * kBlockRows, kBlockRows * sizeof(float));
    const float floor = best->floor();
    int some = 0;
    for (int64_t r = 0; r < kBlockRows; ++r) {
      const int64_t at = block + r;
      scores[r] = static_cast<float>(sums[at] + below) * (step * scales[at]) + biases[at];
      some |= scores[r] >= floor;
    }
    if (!some) continue;
    int64_t count = 0;  // without a branch for each row, which would often be mispredicted
    for (int32_t r = 0; r < kBlockRows; ++r) {
      good[count] = r;
      count += scores[r] >= floor;
    }
    for (int64_t i = 0; i < count; ++i) {
      best->Offer(scores[good[i]], static_cast<int32_t>(first + block + good[i]));
    }
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// The same, sixteen rows at a time.
__attribute__((target("avx512f"))) inline void OfferChunkAvx512(
    const uint16_t* sums, const float* scales, const float* biases, int32_t below, float step,
    int64_t n, int64_t first, Shortlist* best) {
  constexpr int64_t kRows = 16;
  const __m512i lowest = _mm512_set1_epi32(below);
  const __m512 steps = _mm512_set1_ps(step);
  for (int64_t at = 0; at < n; at += kRows) {
    Prefetch(scales + at + kChunkBlocks * kBlockRows, kRows * sizeof(float));
    Prefetch(biases + at + kChunkBlocks * kBlockRows, kRows * sizeof(float));
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + at));
    const __m512i whole = _mm512_add_epi32(_mm512_cvtepu16_epi32(words), lowest);
    const __m512 scale = _mm512_mul_ps(steps, _mm512_loadu_ps(scales + at));
    const __m512 score = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale),
                                       _mm512_loadu_ps(biases + at));
    uint32_t good = _mm512_cmp_ps_mask(score, _mm512_set1_ps(best->floor()), _CMP_GE_OQ);
    if (good == 0) continue;
    float scores[kRows];
    _mm512_storeu_ps(scores, score);
    for (; good != 0; good &= good - 1) {
      const int r = __builtin_ctz(good);
      best->Offer(scores[r], static_cast<int32_t>(first + at + r));
    }
  }
}
#endif

inline void OfferBest(const uint16_t* sums, const float* scales, const float* biases, int32_t below,
                      float step, int64_t n, int64_t first, Shortlist* best) {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool kAvx512 = __builtin_cpu_supports("avx512f");
  if (kAvx512) return OfferChunkAvx512(sums, scales, biases, below, step, n, first, best);
#endif
  OfferChunk(sums, scales, biases, below, step, n, first, best);
}

// Offers the rows of blocks [begin, end) to the best of each query.
inline void ScanQuantized(const QuantizedRows& rows, const QuantizedQueries& queries, int64_t begin,
                          int64_t end, Shortlist* best) {
  uint16_t sums[kChunkBlocks * kBlockRows];
  for (int64_t at = begin; at < end; at += kChunkBlocks) {
    const int64_t blocks = std::min(kChunkBlocks, end - at), row = at * kBlockRows;
    for (int64_t b = 0; b < queries.n; ++b) {
      BlockSums(rows.codes + row * rows.pairs, queries.tables + b * 2 * rows.pairs * kTableEntries,
                rows.pairs, blocks, sums);
      OfferBest(sums, rows.scales + row, rows.biases + row, queries.below[b], queries.steps[b],
                blocks * kBlockRows, row, best + b);
    }
  }
}

SPARSE_JAX_INTRINSICS_END

}  // namespace sparse_jax
