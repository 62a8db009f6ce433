// The label tree: the XLA custom call of the search in `tree_search.h`, and the threads of the
// training in `label_tree.h`.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/label_tree.h"
#include "sparse_jax/tree_search.h"
#include "sparse_buffers.h"

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
  sj::TreeView tree;
  if (auto error = TreeOf(offsets, nodes, weights, bias, children, labels, beam, &tree);
      error.failure()) {
    return error;
  }
  const int64_t num_labels = tree.num_labels;
  if (!Shaped(*scores, {-1, num_labels})) return Bad("scores is not [batch, num_labels]");
  if (depth < 1) return Bad("depth is below 1");
  tree.depth = depth;
  const int64_t n = scores->dimensions()[0];
  sj::WideBatch batch;
  if (auto error = BatchOf(features, examples, values, n, &batch); error.failure()) return error;
  float* out = scores->typed_data();
  Share(pool, n, n * num_labels, [&, out](int64_t b) {
    thread_local sj::TreeSearch search;
    float* const own = out + b * num_labels;
    std::fill_n(own, num_labels, 0.0f);
    search.Run(tree, batch, b, [own](int32_t label, float log_score) {
      own[label] += std::exp(log_score);
    });
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
