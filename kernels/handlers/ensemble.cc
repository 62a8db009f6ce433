// The XLA custom call of the prediction in `ensemble.h`.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "handlers.h"
#include "sparse_buffers.h"
#include "sparse_jax/ensemble.h"

namespace {

// The network's last layer, the points' hidden vectors, and what comes out.
struct Layer {
  const float *queries, *bias;
  int64_t n, num_rows, d, k;  // no rows: no network
  float* scores;
  int32_t* ids;

  void Write(int64_t point, sj::TopK* best) const {
    best->Write(scores + point * k, ids + point * k);
  }
};

sj::TouchedScores& Scratch() {
  thread_local sj::TouchedScores scratch;
  return scratch;
}

void BestOfTouched(ffi::ThreadPool& pool, const Layer& x, const sj::EnsembleView& view,
                   const sj::WideBatch& batch) {
  Share(pool, x.n, x.n * kSmallWork, [&](int64_t b) {
    sj::TouchedScores& scratch = Scratch();
    sj::TopK best(x.k);
    scratch.Gather(view, batch, b);
    scratch.Offer(x.k, &best);
    x.Write(b, &best);
  });
}

template <typename W>
void BestOfAll(ffi::ThreadPool& pool, const Layer& x, const W* rows, const sj::EnsembleView& view,
               const sj::WideBatch& batch) {
  std::vector<sj::Touched> touched(static_cast<size_t>(x.n));
  Share(pool, x.n, x.n * kSmallWork, [&](int64_t b) {
    sj::TouchedScores& scratch = Scratch();
    scratch.Gather(view, batch, b);
    scratch.Write(&touched[static_cast<size_t>(b)]);
  });
  // Few queries: memory bounds them, and the lanes of a tile would run empty.
  constexpr int64_t kFew = 4, kStripe = 256;
  const bool few = x.n <= kFew;
  sj::ManyQueries many(x.queries, few ? 0 : x.n, x.d, x.num_rows);
  const int64_t per_task = sj::RowsOfTask(x.num_rows, x.k, pool.num_threads());
  const int64_t tasks = (x.num_rows + per_task - 1) / per_task;
  std::vector<std::vector<sj::TopK>> best(
      static_cast<size_t>(tasks),
      std::vector<sj::TopK>(static_cast<size_t>(x.n), sj::TopK(x.k)));
  Share(pool, tasks, x.num_rows * x.d, [&](int64_t task) {
    auto& own = best[static_cast<size_t>(task)];
    const int64_t begin = task * per_task, end = std::min(x.num_rows, begin + per_task);
    if (!few) {
      return sj::ScanMany(&many, rows, x.bias, begin, end, sj::RestOfMany(view, touched, begin),
                          &own);
    }
    float rest[kStripe];
    for (int64_t at = begin; at < end; at += kStripe) {
      const int64_t stop = std::min(end, at + kStripe);
      for (int64_t b = 0; b < x.n; ++b) {
        sj::RestOfOne(view, touched[static_cast<size_t>(b)], at, stop, rest);
        sj::ScanOne(x.queries + b * x.d, rows, x.bias, x.d, at, stop, rest,
                    &own[static_cast<size_t>(b)]);
      }
    }
  });
  Share(pool, x.n, x.n * tasks * x.k, [&](int64_t b) {
    sj::TopK& all = best[0][static_cast<size_t>(b)];
    for (int64_t task = 1; task < tasks; ++task) {
      all.Merge(best[static_cast<size_t>(task)][static_cast<size_t>(b)]);
    }
    x.Write(b, &all);
  });
}

// Behind the named operands come those of the trees: offsets, nodes, weights, bias, children and
// labels of each.
ffi::Error TreesOf(const ffi::RemainingArgs& operands, int64_t num_labels, int64_t beam,
                   std::vector<sj::TreeView>* trees) {
  constexpr size_t kOfTree = 6;
  if (operands.size() % kOfTree != 0) return Bad("a tree has not six operands");
  for (size_t at = 0; at < operands.size(); at += kOfTree) {
    auto offsets = operands.get<I32>(at), nodes = operands.get<I32>(at + 1);
    auto weights = operands.get<F32>(at + 2), bias = operands.get<F32>(at + 3);
    auto children = operands.get<I32>(at + 4), labels = operands.get<I32>(at + 5);
    if (!offsets.has_value() || !nodes.has_value() || !weights.has_value() || !bias.has_value() ||
        !children.has_value() || !labels.has_value()) {
      return Bad("an operand of a tree has another type");
    }
    sj::TreeView tree;
    if (auto error = TreeOf(*offsets, *nodes, *weights, *bias, *children, *labels, beam, &tree);
        error.failure()) {
      return error;
    }
    if (tree.num_labels != num_labels) return Bad("labels of a tree is not [num_labels]");
    trees->push_back(tree);
  }
  return ffi::Error::Success();
}

// Stored points by feature, and their labels; no features say nothing.
ffi::Error NearOf(I32& offsets, I32& points, F32& values, I32& label_offsets, I32& labels,
                  F32& label_weights, F32& weight, sj::NeighboursView* near) {
  if (!Shaped(offsets, {-1}) || offsets.element_count() < 1) {
    return Bad("near_offsets is not [num_features + 1]");
  }
  if (!Shaped(points, {-1})) return Bad("near_points is not [values]");
  const int64_t num_values = points.element_count();
  if (!Shaped(values, {num_values})) return Bad("near_values is not [values]");
  if (!Shaped(label_offsets, {-1}) || label_offsets.element_count() < 1) {
    return Bad("near_label_offsets is not [points + 1]");
  }
  const auto num_points = static_cast<int64_t>(label_offsets.element_count()) - 1;
  if (num_points > INT32_MAX) return Bad("points are outside the int32 range");
  if (!Shaped(labels, {-1})) return Bad("near_labels is not [pairs]");
  const int64_t num_pairs = labels.element_count();
  if (!Shaped(label_weights, {num_pairs})) return Bad("near_label_weights is not [pairs]");
  if (!Shaped(weight, {})) return Bad("near_weight is not a scalar");
  const auto num_features = static_cast<int64_t>(offsets.element_count()) - 1;
  *near = {{offsets.typed_data(), points.typed_data(), num_features, num_values, num_points},
           values.typed_data(),
           label_offsets.typed_data(),
           labels.typed_data(),
           label_weights.typed_data(),
           num_pairs,
           *weight.typed_data()};
  return ffi::Error::Success();
}

ffi::Error EnsembleTopKImpl(ffi::ThreadPool pool, F32 queries, ffi::AnyBuffer rows, F32 row_bias,
                            F32 weight, F32 tree_weight, I32 offsets, I32 labels, F32 weights,
                            F32 bias, I32 order, I32 features, I32 examples, F32 values,
                            I32 near_offsets, I32 near_points, F32 near_values,
                            I32 near_label_offsets, I32 near_labels, F32 near_label_weights,
                            F32 near_weight, ffi::RemainingArgs trees, OutF32 scores, OutI32 ids,
                            int64_t beam) {
  if (!Shaped(*scores, {-1, -1}) || scores->dimensions()[1] < 1) {
    return Bad("scores is not [n, k]");
  }
  const int64_t n = scores->dimensions()[0], k = scores->dimensions()[1];
  if (!Shaped(*ids, {n, k})) return Bad("ids is not [n, k]");
  sj::EnsembleView view;
  if (auto error = ViewOf(offsets, labels, weights, bias, &view.wide); error.failure()) {
    return error;
  }
  const int64_t num_labels = view.num_labels();
  if (num_labels > INT32_MAX) return Bad("num_labels is outside the int32 range");
  if (!Shaped(order, {num_labels})) return Bad("order is not [num_labels]");
  if (!Shaped(weight, {}) || !Shaped(tree_weight, {})) return Bad("a weight is not a scalar");
  if (auto error = TreesOf(trees, num_labels, beam, &view.trees); error.failure()) return error;
  if (auto error = NearOf(near_offsets, near_points, near_values, near_label_offsets, near_labels,
                          near_label_weights, near_weight, &view.near);
      error.failure()) {
    return error;
  }
  view.weights = weights.typed_data();
  view.bias = bias.typed_data();
  view.order = order.typed_data();
  view.weight = *weight.typed_data();
  view.tree_weight = *tree_weight.typed_data();
  sj::WideBatch batch;
  if (auto error = BatchOf(features, examples, values, n, &batch); error.failure()) return error;
  if (!Shaped(rows, {-1, -1})) return Bad("rows is not [num_labels, d]");
  const int64_t num_rows = rows.dimensions()[0], d = rows.dimensions()[1];
  if (num_rows != 0 && num_rows != num_labels) {
    return Bad("rows is neither [num_labels, d] nor [0, d]");
  }
  if (!Shaped(row_bias, {num_rows})) return Bad("row_bias is not [rows]");
  if (!Shaped(queries, {n, d})) return Bad("queries is not [n, d]");
  const Layer x{queries.typed_data(), row_bias.typed_data(), n, num_rows, d, k,
                scores->typed_data(), ids->typed_data()};
  if (num_rows == 0) {
    BestOfTouched(pool, x, view, batch);
    return ffi::Error::Success();
  }
  return OnRows(rows, [&](const auto* own) {
    BestOfAll(pool, x, own, view, batch);
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EnsembleTopK, EnsembleTopKImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .RemainingArgs()
                                  .Ret<F32>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("beam"));
