// A linear one-vs-rest classifier whose weights exist only where a feature and a label occur
// together in training: scores of all labels, and squared-hinge Adagrad steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "sparse_jax/lanes.h"
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
};

// The entries of a batch by example: entry order[k], k in [starts[b], starts[b + 1]).
struct WideBatch {
  const int32_t* features;
  const float* values;
  ByPosition by_example;
};

// Labels, ascending, and the gradients of the loss with respect to their scores.
struct Violations {
  std::vector<int32_t> labels;
  std::vector<float> gradients;

  size_t size() const { return labels.size(); }
  void Resize(size_t n) { labels.resize(n), gradients.resize(n); }
  void Add(int32_t label, float gradient) {
    labels.push_back(label), gradients.push_back(gradient);
  }
  void Sort() {
    std::vector<std::pair<int32_t, float>> pairs(size());
    for (size_t i = 0; i < size(); ++i) pairs[i] = {labels[i], gradients[i]};
    std::sort(pairs.begin(), pairs.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < size(); ++i) labels[i] = pairs[i].first, gradients[i] = pairs[i].second;
  }
};

// visit(labels, weights, n, value) for what each feature of example b points to.
template <typename Visit>
void ForEachRow(const WideView& view, const float* weights, const WideBatch& batch, int64_t b,
                Visit&& visit) {
  const auto& sorted = batch.by_example;
  for (int32_t i = sorted.starts[static_cast<size_t>(b)];
       i < sorted.starts[static_cast<size_t>(b) + 1]; ++i) {
    const int32_t e = sorted.order[static_cast<size_t>(i)];
    const int32_t f = batch.features[e];
    if (!view.Has(f)) continue;
    const int64_t begin = view.Begin(f);
    visit(view.labels + begin, weights + begin, view.End(f) - begin, batch.values[e]);
  }
}

// scores[l] = bias[l] + sum over the entries of example b of value * weight(feature, l).
inline void WideScores(const WideView& view, const float* weights, const float* bias,
                       const WideBatch& batch, int64_t b, float* scores) {
  std::copy(bias, bias + view.num_labels, scores);
  const auto in_range = static_cast<uint32_t>(view.num_labels);
  ForEachRow(view, weights, batch, b,
             [=](const int32_t* labels, const float* row, int64_t n, float x) {
               for (int64_t k = 0; k < n; ++k) {
                 if (static_cast<uint32_t>(labels[k]) < in_range) scores[labels[k]] += x * row[k];
               }
             });
}

// Scratch of one thread: sums over some of the labels, and which. An untouched sum is -0, from which
// an addition of anything but -0 leads away, so the sums need no flags beside them.
class WideSums {
 public:
  void Resize(int64_t num_labels) {
    if (sums_.size() != static_cast<size_t>(num_labels)) {
      sums_.assign(static_cast<size_t>(num_labels), kUntouched);
    }
    count_ = 0;
  }

  // Adds x * row[k] to the sum of labels[k].
  void Add(const int32_t* labels, const float* row, int64_t n, float x) {
    Reserve(static_cast<size_t>(n));
    const auto in_range = static_cast<uint32_t>(sums_.size());
    float* sums = sums_.data();
    int32_t* touched = touched_.data();
    size_t count = count_;
    for (int64_t k = 0; k < n; ++k) {
      const int32_t label = labels[k];
      if (static_cast<uint32_t>(label) >= in_range) continue;
      touched[count] = label;  // kept only where it is the first time: no branch to mispredict
      count += Untouched(sums[label]);
      sums[label] += x * row[k];
    }
    count_ = count;
  }

  float Get(int32_t label) const { return sums_[static_cast<size_t>(label)]; }
  void Set(int32_t label, float sum) {
    Reserve(1);
    if (Untouched(Get(label))) touched_[count_++] = label;
    sums_[static_cast<size_t>(label)] = sum;
  }

  // visit(label, sum) for the touched labels as they came; leaves all untouched.
  template <typename Visit>
  void Drain(Visit&& visit) {
    for (size_t i = 0; i < count_; ++i) {
      float& sum = sums_[static_cast<size_t>(touched_[i])];
      visit(touched_[i], sum);
      sum = kUntouched;
    }
    count_ = 0;
  }

  size_t num_touched() const { return count_; }

 private:
  // Room for n more and one to write past them: more than there are labels, if products are -0.
  void Reserve(size_t n) {
    if (touched_.size() <= count_ + n) touched_.resize(2 * (count_ + n) + 1);
  }

  static constexpr float kUntouched = -0.0f;
  static bool Untouched(float sum) {
    uint32_t bits;
    std::memcpy(&bits, &sum, sizeof(bits));
    return bits == 0x80000000u;
  }

  std::vector<float> sums_;
  std::vector<int32_t> touched_;  // the first count_ of them
  size_t count_ = 0;
};

// The labels whose bias alone violates the margin of an example that isn't theirs.
inline std::vector<int32_t> HotLabels(const float* bias, int64_t num_labels) {
  constexpr int64_t kBlock = 16;
  std::vector<int32_t> hot;
  for (int64_t begin = 0; begin < num_labels; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, num_labels);
    int any = 0;
    for (int64_t l = begin; l < end; ++l) any |= bias[l] > -1.0f;
    for (int64_t l = begin; any && l < end; ++l) {
      if (bias[l] > -1.0f) hot.push_back(static_cast<int32_t>(l));
    }
  }
  return hot;
}

// Labels of example b whose margin is below 1. `own` are its labels, `hot` as above; other labels
// are looked at only where a feature of the example points to them. Returns the sum of the squared
// shortfalls.
inline float WideViolations(const WideView& view, const float* weights, const float* bias,
                            const WideBatch& batch, int64_t b, const std::vector<int32_t>& own,
                            const std::vector<int32_t>& hot, WideSums* sums, Violations* found) {
  constexpr float kCounted = -std::numeric_limits<float>::infinity();
  sums->Resize(view.num_labels);
  for (const int32_t label : hot) sums->Set(label, 0.0f);
  ForEachRow(view, weights, batch, b,
             [sums](const int32_t* labels, const float* row, int64_t n, float x) {
               sums->Add(labels, row, n, x);
             });
  float loss = 0;
  Violations own_found;
  for (const int32_t label : own) {
    const float sum = sums->Get(label);
    if (sum == kCounted) continue;  // named twice
    const float shortfall = 1.0f - (sum + bias[label]);
    sums->Set(label, kCounted);  // far from a violation as another's
    if (!(shortfall > 0)) continue;
    loss += shortfall * shortfall;
    own_found.Add(label, -2.0f * shortfall);
  }
  found->Resize(sums->num_touched());
  size_t count = 0;
  sums->Drain([&](int32_t label, float sum) {
    const float shortfall = 1.0f + (sum + bias[label]);
    found->labels[count] = label;  // no branch here either
    found->gradients[count] = 2.0f * shortfall;
    count += shortfall > 0;
  });
  found->Resize(count);
  for (const float g : found->gradients) loss += (0.5f * g) * (0.5f * g);
  for (size_t i = 0; i < own_found.size(); ++i) {
    found->Add(own_found.labels[i], own_found.gradients[i]);
  }
  found->Sort();
  return loss;
}

inline void Adagrad(float gradient, float learning_rate, float* weight, float* slot) {
  *slot += gradient * gradient;
  *weight -= learning_rate * gradient / std::sqrt(*slot);
}

// Adagrad where `dense` holds a gradient for the label of a weight: sixteen at a time, for most are
// none of a row's or many, and a branch at each would be mispredicted.
SPARSE_JAX_CLONES static void WalkRow(const int32_t* labels, int64_t n, const float* dense,
                                      uint32_t none, float x, float learning_rate, float* weights,
                                      float* slots) {
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    float gradients[kLanes];
    uint32_t any = 0;
    for (int64_t i = 0; i < kLanes; ++i) {
      gradients[i] = dense[std::min(static_cast<uint32_t>(labels[k + i]), none)];
    }
    for (int64_t i = 0; i < kLanes; ++i) any |= gradients[i] != 0;
    if (!any) continue;
    for (int64_t i = 0; i < kLanes; ++i) {
      float weight = weights[k + i], slot = slots[k + i];
      Adagrad(gradients[i] * x, learning_rate, &weight, &slot);
      weights[k + i] = gradients[i] != 0 ? weight : weights[k + i];
      slots[k + i] = gradients[i] != 0 ? slot : slots[k + i];
    }
  }
  for (; k < n; ++k) {
    const float gradient = dense[std::min(static_cast<uint32_t>(labels[k]), none)];
    if (gradient != 0) Adagrad(gradient * x, learning_rate, weights + k, slots + k);
  }
}

// The weights of one feature: a walk through its row, or a search for each violation where these
// are few. `dense` [num_labels + 1] holds the same gradients, 0 elsewhere and at its end. The order
// of the updates of a weight is that of the calls, so any thread may do any feature.
inline void WideUpdateRow(const WideView& view, int32_t f, float x, float learning_rate,
                          const Violations& violations, const float* dense, float* weights,
                          float* slots) {
  const int64_t begin = view.Begin(f), end = view.End(f);
  if (end - begin > 16 * static_cast<int64_t>(violations.size())) {
    const int32_t* at = view.labels + begin;
    const int32_t* last = view.labels + end;
    for (size_t i = 0; i < violations.size(); ++i) {
      at = std::lower_bound(at, last, violations.labels[i]);
      if (at == last) return;
      const int64_t k = at - view.labels;
      if (*at == violations.labels[i]) {
        Adagrad(violations.gradients[i] * x, learning_rate, weights + k, slots + k);
      }
    }
    return;
  }
  WalkRow(view.labels + begin, end - begin, dense, static_cast<uint32_t>(view.num_labels), x,
          learning_rate, weights + begin, slots + begin);
}

// The share of one task among `tasks` in the updates of examples from `first` on, whose violations
// these are: the features f with f % tasks == task.
inline void WideUpdate(const WideView& view, const WideBatch& batch, int64_t first,
                       const std::vector<Violations>& violations, float learning_rate, int64_t task,
                       int64_t tasks, std::vector<float>* scratch, float* weights,
                       float* slots) {
  scratch->resize(static_cast<size_t>(view.num_labels) + 1, 0.0f);
  float* dense = scratch->data();  // all zero between uses
  const int32_t* starts = batch.by_example.starts.data() + first;
  for (size_t b = 0; b < violations.size(); ++b) {
    const Violations& v = violations[b];
    for (size_t i = 0; i < v.size(); ++i) dense[v.labels[i]] = v.gradients[i];
    for (int32_t i = starts[b]; i < starts[b + 1]; ++i) {
      const int32_t e = batch.by_example.order[static_cast<size_t>(i)];
      const int32_t f = batch.features[e];
      if (!view.Has(f) || f % tasks != task) continue;
      WideUpdateRow(view, f, batch.values[e], learning_rate, v, dense, weights, slots);
    }
    for (const int32_t label : v.labels) dense[label] = 0.0f;
  }
}

// The same for the bias: labels from num_labels * task / tasks on.
inline void WideUpdateBias(const std::vector<Violations>& violations, float learning_rate,
                           int64_t num_labels, int64_t task, int64_t tasks, float* bias,
                           float* slots) {
  const auto from = static_cast<int32_t>(num_labels * task / tasks);
  const auto to = static_cast<int32_t>(num_labels * (task + 1) / tasks);
  for (const Violations& v : violations) {
    auto i = static_cast<size_t>(
        std::lower_bound(v.labels.begin(), v.labels.end(), from) - v.labels.begin());
    for (; i < v.size() && v.labels[i] < to; ++i) {
      Adagrad(v.gradients[i], learning_rate, bias + v.labels[i], slots + v.labels[i]);
    }
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
