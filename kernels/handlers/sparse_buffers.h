// From buffers to what `wide.h` and `tree_search.h` work on: weights by feature, a tree, and a
// batch by example.
#pragma once

#include <cstdint>

#include "common.h"
#include "sparse_jax/tree_search.h"
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

// A tree whose depth is what its children say.
inline ffi::Error TreeOf(I32& offsets, I32& nodes, F32& weights, F32& bias, I32& children,
                         I32& labels, int64_t beam, sj::TreeView* tree) {
  if (auto error = ViewOf(offsets, nodes, weights, bias, &tree->weights); error.failure()) {
    return error;
  }
  if (!Shaped(children, {-1}) || children.element_count() < 2) {
    return Bad("children is not [inner nodes + 1]");
  }
  if (!Shaped(labels, {-1})) return Bad("labels is not [num_labels]");
  if (beam < 1) return Bad("beam is below 1");
  tree->values = weights.typed_data();
  tree->bias = bias.typed_data();
  tree->children = children.typed_data();
  tree->inner = static_cast<int64_t>(children.element_count()) - 1;
  tree->labels = labels.typed_data();
  tree->num_labels = static_cast<int64_t>(labels.element_count());
  tree->depth = sj::TreeDepth(tree->children, tree->inner);
  tree->beam = beam;
  return ffi::Error::Success();
}
