// Near-duplicates among sets, compiled for speed: no XLA, module.cc calls these.
#include "sparse_jax/minhash.h"

#include "sparse_jax/text_counts.h"

namespace sparse_jax {

std::vector<int32_t> MinHashCodes(const int64_t* offsets, int64_t sets, const int32_t* ids,
                                  const MinHashParams& params, int64_t prime, int64_t threads) {
  constexpr int64_t kAtOnce = 256;
  std::vector<int32_t> codes(size_t(sets * params.tables));
  text::RunOn(threads, (sets + kAtOnce - 1) / kAtOnce, [&](int64_t run) {
    MinHasher hasher(params, prime);
    for (int64_t set = run * kAtOnce; set < std::min(sets, (run + 1) * kAtOnce); ++set) {
      hasher.Hash(ids + offsets[set], offsets[set + 1] - offsets[set],
                  &codes[size_t(set * params.tables)]);
    }
  });
  return codes;
}

void SetMatcher::AddAll(const int64_t* offsets, int64_t sets, const int32_t* ids,
                        const int32_t* codes, int64_t* numbers, double* similarities) {
  for (int64_t set = 0; set < sets; ++set) {
    numbers[set] = Add(ids + offsets[set], offsets[set + 1] - offsets[set],
                       codes + set * (tables_ - 1), similarities + set);
  }
}

}  // namespace sparse_jax
