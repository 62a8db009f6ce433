// Features of texts, compiled for speed: no XLA, module.cc calls these.
#include "sparse_jax/text_features.h"

#include "sparse_jax/text_counts.h"

namespace sparse_jax {

TextCounts HashTexts(const std::vector<Text>& texts, const TextOptions& options,
                     int64_t num_features, int64_t threads) {
  const uint64_t size = uint64_t(num_features);
  return text::CountBy(texts, options, threads,
                       [size](uint64_t key) { return int64_t(key % size); });
}

TextCounts CountKnown(const std::vector<Text>& texts, const TextOptions& options,
                      const uint64_t* keys, int64_t num_keys, int64_t threads) {
  text::KeyTable table(num_keys);
  for (int64_t i = 0; i < num_keys; ++i) table.FindOrAdd(keys[i]);
  return text::CountBy(texts, options, threads,
                       [&table](uint64_t key) { return int64_t(table.Find(key)); });
}

TextCounts FitVocabulary(const std::vector<Text>& texts, const TextOptions& options,
                         int64_t min_count, int64_t max_features, int64_t threads,
                         TextVocabulary* vocabulary) {
  return text::CountAndKeep(texts, options, min_count, max_features, threads, vocabulary);
}

}  // namespace sparse_jax
