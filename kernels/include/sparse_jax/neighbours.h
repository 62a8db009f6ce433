// What the nearest stored points say of labels: the share that each label has of them.
//
//   share(l | x) = sum over near points p of s_p^16 y_pl / sum over near points p of s_p^16
//
// s_p is the product of x and point p by the features that the index holds, and near are the 64
// points with the largest ones above 0, equal ones in order of id.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse_jax/topk.h"
#include "sparse_jax/wide.h"

namespace sparse_jax {

// Nothing here is trusted: ids out of range are skipped.
struct NeighboursView {
  WideView index;  // its labels are points
  const float* values;
  const int32_t* label_offsets;  // [points + 1]
  const int32_t* labels;         // [pairs]
  const float* label_weights;    // [pairs]
  int64_t num_pairs;
  float weight;  // of a share; 0 for no neighbours

  bool Say() const { return weight != 0 && index.num_weights > 0; }
};

constexpr int64_t kNear = 64;

// Scratch of one thread.
class NearestPoints {
 public:
  // visit(label, share) for each label of point b's nearest, once each; labels in [0, num_labels).
  template <typename Visit>
  void Run(const NeighboursView& view, const WideBatch& batch, int64_t b, int64_t num_labels,
           Visit&& visit) {
    MakeRoom(view, num_labels);
    const auto in_range = static_cast<uint32_t>(view.index.num_labels);
    ForEachRow(view.index, view.values, batch, b,
               [&](const int32_t* points, const float* row, int64_t n, float x) {
                 Reserve(static_cast<size_t>(n));
                 float* sums = sums_.data();
                 int32_t* touched = touched_.data();
                 size_t count = count_;
                 for (int64_t k = 0; k < n; ++k) {
                   const auto p = static_cast<uint32_t>(points[k]);
                   if (p >= in_range) continue;
                   touched[count] = points[k];  // kept only where its sum was 0: no branch
                   count += sums[p] == 0;
                   sums[p] += x * row[k];
                 }
                 count_ = count;
               });
    TopK best(kNear);
    float floor = 0;
    for (size_t i = 0; i < count_; ++i) {
      const int32_t p = touched_[i];
      float& sum = sums_[static_cast<size_t>(p)];
      const float likeness = sum;
      sum = 0;  // a point that comes again, as its sum was 0 between, is not offered twice
      if (!(likeness > 0 && likeness >= floor && std::isfinite(likeness))) continue;
      best.Offer(likeness, p);
      floor = best.floor();
    }
    count_ = 0;
    float likeness[kNear];
    int32_t points[kNear];
    best.Write(likeness, points);
    float total = 0;
    for (int64_t i = 0; i < kNear && points[i] >= 0; ++i) {
      float power = likeness[i] / likeness[0];
      for (int squared = 0; squared < 4; ++squared) power *= power;
      total += power;
      const auto p = static_cast<size_t>(points[i]);
      const int64_t begin = std::clamp<int64_t>(view.label_offsets[p], 0, view.num_pairs);
      const int64_t end = std::clamp<int64_t>(view.label_offsets[p + 1], begin, view.num_pairs);
      for (int64_t k = begin; k < end; ++k) {
        const int32_t label = view.labels[k];
        if (label < 0 || label >= num_labels) continue;
        float& share = shares_[static_cast<size_t>(label)];
        if (share == 0) found_.push_back(label);
        share += power * view.label_weights[k];
      }
    }
    for (const int32_t label : found_) {
      float& share = shares_[static_cast<size_t>(label)];
      if (share != 0) visit(label, share / total);
      share = 0;
    }
    found_.clear();
  }

 private:
  // Room for n more, and one to write past them.
  void Reserve(size_t n) {
    if (touched_.size() <= count_ + n) touched_.resize(2 * (count_ + n) + 1);
  }
  void MakeRoom(const NeighboursView& view, int64_t num_labels) {
    const auto points = static_cast<size_t>(view.index.num_labels);
    if (sums_.size() < points) sums_.resize(points, 0.0f);
    const auto labels = static_cast<size_t>(num_labels);
    if (shares_.size() < labels) shares_.resize(labels, 0.0f);
  }

  std::vector<float> sums_, shares_;  // by point, by label: 0 but while a point is looked at
  std::vector<int32_t> touched_;         // the first count_ of them
  size_t count_ = 0;
  std::vector<int32_t> found_;
};

}  // namespace sparse_jax
