// From buffers to what `wide.h` works on: weights by feature, and a batch by example.
#pragma once

#include <cstdint>

#include "common.h"
#include "sparse_jax/wide.h"

inline ffi::Error ViewOf(I32& offsets, I32& labels, F32& weights, F32& bias, sj::WideView* view) {
  if (!Shaped(offsets, {-1}) || offsets.element_count() < 1) {
    return Bad("offsets is not [num_features + 1]");
  }
  if (!Shaped(labels, {-1})) return Bad("label_ids is not [num_weights]");
  const int64_t num_weights = labels.element_count();
  if (!Shaped(weights, {num_weights})) return Bad("weights is not [num_weights]");
  if (!Shaped(bias, {-1})) return Bad("bias is not [num_labels]");
  *view = {offsets.typed_data(), labels.typed_data(),
           static_cast<int64_t>(offsets.element_count()) - 1, num_weights,
           static_cast<int64_t>(bias.element_count())};
  return ffi::Error::Success();
}

inline ffi::Error BatchOf(I32& features, I32& examples, F32& values, int64_t batch_size,
                          sj::WideBatch* batch) {
  if (!Shaped(features, {-1})) return Bad("feature_ids is not [entries]");
  const int64_t entries = features.element_count();
  if (!Shaped(examples, {entries}) || !Shaped(values, {entries})) {
    return Bad("feature_rows and feature_values are not [entries]");
  }
  *batch = {features.typed_data(), values.typed_data(),
            sj::SortByPosition(examples.typed_data(), entries, batch_size)};
  return ffi::Error::Success();
}
