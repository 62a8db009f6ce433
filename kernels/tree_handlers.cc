// The label tree in `label_tree.h`: its XLA custom call, and the threads of its training.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "ffi_common.h"
#include "ffi_handlers.h"
#include "sparse_jax/label_tree.h"

namespace sparse_jax {

NodeWeights FitTreeLevel(const SparsePoints& points, const TreeLevel& level,
                         const SvmOptions& options, int64_t threads, float* bias) {
  const int64_t num_nodes = level.num_nodes();
  std::vector<NodeWeights> nodes(static_cast<size_t>(num_nodes));
  // A task has scratch of its own, made before there are threads that an exception would leave
  // behind, and takes every tasks-th node.
  const int64_t tasks = std::max<int64_t>(1, std::min(4 * threads, num_nodes));
  std::vector<NodeTrainer> trainers(static_cast<size_t>(tasks), NodeTrainer(points, options));
  std::vector<std::thread> helpers;
  ParallelFor(
      tasks, threads - 1, [&](auto work) { helpers.emplace_back(std::move(work)); },
      [&](int64_t task) {
        NodeTrainer& trainer = trainers[static_cast<size_t>(task)];
        for (int64_t g = task; g < num_nodes; g += tasks) {
          nodes[static_cast<size_t>(g)] = trainer.Train(level, g, bias);
        }
      });
  for (std::thread& helper : helpers) helper.join();
  NodeWeights all;
  for (const NodeWeights& node : nodes) {
    all.features.insert(all.features.end(), node.features.begin(), node.features.end());
    all.children.insert(all.children.end(), node.children.begin(), node.children.end());
    all.weights.insert(all.weights.end(), node.weights.begin(), node.weights.end());
  }
  return all;
}

}  // namespace sparse_jax

namespace {

ffi::Error TreeScoresImpl(ffi::ThreadPool pool, I32 offsets, I32 nodes, F32 weights, F32 bias,
                          I32 children, I32 labels, I32 features, I32 examples, F32 values,
                          OutF32 scores, int64_t depth, int64_t beam) {
  if (!Shaped(offsets, {-1}) || offsets.element_count() < 1) {
    return Bad("offsets is not [num_features + 1]");
  }
  if (!Shaped(nodes, {-1})) return Bad("nodes is not [num_weights]");
  const auto num_weights = static_cast<int64_t>(nodes.element_count());
  if (!Shaped(weights, {num_weights})) return Bad("weights is not [num_weights]");
  if (!Shaped(bias, {-1})) return Bad("bias is not [num_nodes]");
  if (!Shaped(children, {-1}) || children.element_count() < 2) {
    return Bad("children is not [inner nodes + 1]");
  }
  if (!Shaped(labels, {-1})) return Bad("labels is not [num_labels]");
  const auto num_labels = static_cast<int64_t>(labels.element_count());
  if (!Shaped(*scores, {-1, num_labels})) return Bad("scores is not [batch, num_labels]");
  if (!Shaped(features, {-1})) return Bad("feature_ids is not [entries]");
  const auto entries = static_cast<int64_t>(features.element_count());
  if (!Shaped(examples, {entries}) || !Shaped(values, {entries})) {
    return Bad("feature_rows and feature_values are not [entries]");
  }
  if (depth < 1 || beam < 1) return Bad("depth or beam is below 1");
  const int64_t n = scores->dimensions()[0];
  const sj::WideBatch batch = {features.typed_data(), values.typed_data(),
                               sj::SortByPosition(examples.typed_data(), entries, n)};
  sj::TreeView tree;
  tree.weights = {offsets.typed_data(), nodes.typed_data(),
                  static_cast<int64_t>(offsets.element_count()) - 1, num_weights,
                  static_cast<int64_t>(bias.element_count())};
  tree.values = weights.typed_data();
  tree.bias = bias.typed_data();
  tree.children = children.typed_data();
  tree.inner = static_cast<int64_t>(children.element_count()) - 1;
  tree.labels = labels.typed_data();
  tree.num_labels = num_labels;
  tree.depth = depth;
  tree.beam = beam;
  float* out = scores->typed_data();
  Share(pool, n, n * num_labels, [&, out](int64_t b) {
    thread_local sj::TreeSearch search;
    std::fill_n(out + b * num_labels, num_labels, 0.0f);
    search.Run(tree, batch, b, out + b * num_labels);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TreeScores, TreeScoresImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Attr<int64_t>("depth")
                                  .Attr<int64_t>("beam"));
