// A linear one-vs-rest classifier whose weights exist only where a feature and a label occur
// together in training: scores of all labels, and squared-hinge Adagrad steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "sparse_jax/rows.h"

namespace sparse_jax {

// Weight k in [offsets[f], offsets[f + 1]) joins feature f to labels[k], ascending in a feature.
// Nothing here is trusted: entries out of range are skipped.
struct WideView {
  const int32_t* offsets;  // [num_features + 1]
  const int32_t* labels;   // [num_weights]
  int64_t num_features, num_weights, num_labels;

  int64_t Begin(int32_t f) const { return std::clamp<int64_t>(offsets[f], 0, num_weights); }
  int64_t End(int32_t f) const {
    return std::clamp<int64_t>(offsets[f + 1], Begin(f), num_weights);
  }
  bool Has(int32_t feature) const { return feature >= 0 && feature < num_features; }
  bool Holds(int32_t label) const { return label >= 0 && label < num_labels; }
};

// The entries of a batch by example: entry order[k], k in [starts[b], starts[b + 1]).
struct WideBatch {
  const int32_t* features;
  const float* values;
  ByPosition by_example;
};

struct Violation {
  int32_t label;
  float gradient;  // of the loss with respect to the label's score
};

// visit(label, value * weight) for what the features of example b point to.
template <typename Visit>
void ForEachTerm(const WideView& view, const float* weights, const WideBatch& batch, int64_t b,
                 Visit&& visit) {
  const auto& sorted = batch.by_example;
  for (int32_t i = sorted.starts[static_cast<size_t>(b)];
       i < sorted.starts[static_cast<size_t>(b) + 1]; ++i) {
    const int32_t e = sorted.order[static_cast<size_t>(i)];
    const int32_t f = batch.features[e];
    if (!view.Has(f)) continue;
    const float x = batch.values[e];
    const int64_t end = view.End(f);
    for (int64_t k = view.Begin(f); k < end; ++k) {
      if (view.Holds(view.labels[k])) visit(view.labels[k], x * weights[k]);
    }
  }
}

// scores[l] = bias[l] + sum over the entries of example b of value * weight(feature, l).
inline void WideScores(const WideView& view, const float* weights, const float* bias,
                       const WideBatch& batch, int64_t b, float* scores) {
  std::copy(bias, bias + view.num_labels, scores);
  ForEachTerm(view, weights, batch, b,
              [scores](int32_t label, float term) { scores[label] += term; });
}

// Scratch of one thread: sums over a few labels at a time, all zero between uses.
class WideSums {
 public:
  void Resize(int64_t num_labels) {
    if (static_cast<int64_t>(sums_.size()) == Blocks(num_labels) * kBlock) return;
    sums_.assign(static_cast<size_t>(Blocks(num_labels) * kBlock), 0.0f);
    touched_.assign(static_cast<size_t>(Blocks(num_labels)), 0);
  }

  void Touch(int32_t label) { touched_[static_cast<size_t>(label / kBlock)] = 1; }

  void Add(int32_t label, float term) {
    sums_[static_cast<size_t>(label)] += term;
    Touch(label);
  }

  float Get(int32_t label) const { return sums_[static_cast<size_t>(label)]; }
  void Set(int32_t label, float sum) { sums_[static_cast<size_t>(label)] = sum; }

  // visit(label, sum) for all labels of the touched blocks, in order; leaves all zero.
  template <typename Visit>
  void Drain(int64_t num_labels, Visit&& visit) {
    for (size_t block = 0; block < touched_.size(); ++block) {
      if (!touched_[block]) continue;
      touched_[block] = 0;
      const auto begin = static_cast<int64_t>(block) * kBlock;
      const int64_t end = std::min(begin + kBlock, num_labels);
      for (int64_t l = begin; l < end; ++l) {
        visit(static_cast<int32_t>(l), sums_[static_cast<size_t>(l)]);
        sums_[static_cast<size_t>(l)] = 0;
      }
    }
  }

 private:
  static constexpr int64_t kBlock = 16;  // floats of a cache line
  static int64_t Blocks(int64_t num_labels) { return (num_labels + kBlock - 1) / kBlock; }
  std::vector<float> sums_;
  std::vector<uint8_t> touched_;
};

// Labels of example b whose margin is below 1, ascending. `own` are its labels, `hot` those whose
// bias alone violates the margin of an example that isn't theirs; other labels are looked at only
// where a feature of the example points to them. Returns the sum of the squared shortfalls.
inline float WideViolations(const WideView& view, const float* weights, const float* bias,
                            const WideBatch& batch, int64_t b, const std::vector<int32_t>& own,
                            const std::vector<int32_t>& hot, WideSums* sums,
                            std::vector<Violation>* found) {
  found->clear();
  sums->Resize(view.num_labels);
  for (const int32_t label : hot) sums->Touch(label);
  ForEachTerm(view, weights, batch, b,
              [sums](int32_t label, float term) { sums->Add(label, term); });
  float loss = 0;
  for (const int32_t label : own) {
    const float sum = sums->Get(label);
    if (sum == -std::numeric_limits<float>::infinity()) continue;  // named twice
    const float shortfall = 1.0f - (sum + bias[label]);
    sums->Touch(label);
    sums->Set(label, -std::numeric_limits<float>::infinity());  // far from a violation as another's
    if (!(shortfall > 0)) continue;
    loss += shortfall * shortfall;
    found->push_back({label, -2.0f * shortfall});
  }
  sums->Drain(view.num_labels, [&](int32_t label, float sum) {
    const float shortfall = 1.0f + (sum + bias[label]);
    if (!(shortfall > 0)) return;
    loss += shortfall * shortfall;
    found->push_back({label, 2.0f * shortfall});
  });
  std::sort(found->begin(), found->end(),
            [](const Violation& a, const Violation& b) { return a.label < b.label; });
  return loss;
}

inline void Adagrad(float gradient, float learning_rate, float* weight, float* slot) {
  *slot += gradient * gradient;
  *weight -= learning_rate * gradient / std::sqrt(*slot);
}

// The weights of one feature: a walk through its row, or a search for each violation where these
// are few. `dense` [num_labels] holds the same gradients, 0 elsewhere. The order of the updates of
// a weight is that of the calls, so any thread may do any feature.
inline void WideUpdateRow(const WideView& view, int32_t f, float x, float learning_rate,
                          const std::vector<Violation>& violations, const float* dense,
                          float* weights, float* slots) {
  const int64_t begin = view.Begin(f), end = view.End(f);
  if (end - begin > 16 * static_cast<int64_t>(violations.size())) {
    const int32_t* at = view.labels + begin;
    const int32_t* last = view.labels + end;
    for (const Violation& v : violations) {
      at = std::lower_bound(at, last, v.label);
      if (at == last) return;
      const int64_t k = at - view.labels;
      if (*at == v.label) Adagrad(v.gradient * x, learning_rate, weights + k, slots + k);
    }
    return;
  }
  for (int64_t k = begin; k < end; ++k) {
    if (!view.Holds(view.labels[k])) continue;
    const float gradient = dense[view.labels[k]];
    if (gradient != 0) Adagrad(gradient * x, learning_rate, weights + k, slots + k);
  }
}

// The share of one task among `tasks` in a step's updates: the features f with f % tasks == task.
inline void WideUpdate(const WideView& view, const WideBatch& batch,
                       const std::vector<std::vector<Violation>>& violations, float learning_rate,
                       int64_t task, int64_t tasks, std::vector<float>* scratch, float* weights,
                       float* slots) {
  std::vector<float>& dense = *scratch;  // all zero between uses
  dense.resize(static_cast<size_t>(view.num_labels), 0.0f);
  const auto& sorted = batch.by_example;
  for (size_t b = 0; b < violations.size(); ++b) {
    for (const Violation& v : violations[b]) dense[static_cast<size_t>(v.label)] = v.gradient;
    for (int32_t i = sorted.starts[b]; i < sorted.starts[b + 1]; ++i) {
      const int32_t e = sorted.order[static_cast<size_t>(i)];
      const int32_t f = batch.features[e];
      if (!view.Has(f) || f % tasks != task) continue;
      WideUpdateRow(view, f, batch.values[e], learning_rate, violations[b], dense.data(), weights,
                    slots);
    }
    for (const Violation& v : violations[b]) dense[static_cast<size_t>(v.label)] = 0.0f;
  }
}

template <typename T>
struct Span {
  const T* data;
  size_t size;
};

inline bool Ascends(Span<int64_t> offsets, size_t last) {
  if (offsets.size == 0 || offsets.data[0] != 0) return false;
  for (size_t i = 1; i < offsets.size; ++i) {
    if (offsets.data[i] < offsets.data[i - 1]) return false;
  }
  return offsets.data[offsets.size - 1] == static_cast<int64_t>(last);
}

// For each feature the labels of more than `min_share` of the points that hold it, ascending.
// Returns what is wrong with the arguments, or nothing.
inline std::string CoOccurring(Span<int64_t> feature_offsets, Span<int32_t> feature_ids,
                               Span<int64_t> label_offsets, Span<int32_t> label_ids,
                               int64_t num_features, int64_t num_labels, double min_share,
                               std::vector<int32_t>* offsets, std::vector<int32_t>* labels) {
  if (!Ascends(feature_offsets, feature_ids.size) || !Ascends(label_offsets, label_ids.size) ||
      feature_offsets.size != label_offsets.size) {
    return "the offsets do not fit the ids";
  }
  for (size_t i = 0; i < label_ids.size; ++i) {
    if (label_ids.data[i] < 0 || label_ids.data[i] >= num_labels) return "a label id is out of range";
  }
  // The points of each feature, in order.
  std::vector<int32_t> points(feature_ids.size);
  for (size_t p = 0; p + 1 < feature_offsets.size; ++p) {
    std::fill(points.begin() + feature_offsets.data[p], points.begin() + feature_offsets.data[p + 1],
              static_cast<int32_t>(p));
  }
  const ByPosition held =
      SortByPosition(feature_ids.data, static_cast<int64_t>(feature_ids.size), num_features);
  std::vector<int32_t> counts(static_cast<size_t>(num_labels), 0), touched;
  offsets->assign(1, 0);
  labels->clear();
  for (size_t f = 0; f < static_cast<size_t>(num_features); ++f) {
    touched.clear();
    for (int32_t i = held.starts[f]; i < held.starts[f + 1]; ++i) {
      const auto p = static_cast<size_t>(
          points[static_cast<size_t>(held.order[static_cast<size_t>(i)])]);
      for (int64_t q = label_offsets.data[p]; q < label_offsets.data[p + 1]; ++q) {
        if (counts[static_cast<size_t>(label_ids.data[q])]++ == 0) {
          touched.push_back(label_ids.data[q]);
        }
      }
    }
    const double least = min_share * (held.starts[f + 1] - held.starts[f]);
    std::sort(touched.begin(), touched.end());
    for (const int32_t label : touched) {
      if (counts[static_cast<size_t>(label)] > least) labels->push_back(label);
      counts[static_cast<size_t>(label)] = 0;
    }
    if (labels->size() > static_cast<size_t>(INT32_MAX)) return "more than 2^31 - 1 pairs";
    offsets->push_back(static_cast<int32_t>(labels->size()));
  }
  return "";
}

}  // namespace sparse_jax
