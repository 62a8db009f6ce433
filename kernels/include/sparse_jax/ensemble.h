// The best labels by the sum of a network, a wide part, label trees and neighbours, without an array
// of the scores of all labels:
//
//   score(l | x) = h.w_l + b_l + weight * (wide(l | x) + tree_weight * log(mean tree score + 1e-6)
//                                          + near_weight * share(l | x))
//
// A point touches few labels by the wide part, trees and neighbours; every other one stays where its
// bias puts it. So without a network a point's time depends on what it touches alone, and with one
// the touched labels are exceptions in a pass over the rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "sparse_jax/neighbours.h"
#include "sparse_jax/scan_many.h"
#include "sparse_jax/tree_search.h"
#include "sparse_jax/wide.h"

namespace sparse_jax {

struct EnsembleView {
  WideView wide;
  const float* weights;
  const float* bias;
  const int32_t* order;  // [N], labels by descending bias; not trusted
  float weight, tree_weight;
  std::vector<TreeView> trees;  // over the same labels
  NeighboursView near;          // likewise

  int64_t num_labels() const { return wide.num_labels; }
  // What the trees add to the wide score of a label, from the sum of their scores.
  float ByTrees(float sum) const {
    if (trees.empty()) return 0.0f;
    return tree_weight * std::log(sum / static_cast<float>(trees.size()) + 1e-6f);
  }
};

// The labels that a point touches, ascending, and their scores beside the network's.
struct Touched {
  std::vector<int32_t> labels;
  std::vector<float> scores;
};

// Scratch of one thread: the labels that one point touches.
class TouchedScores {
 public:
  void Gather(const EnsembleView& view, const WideBatch& batch, int64_t b) {
    view_ = &view;
    far_ = view.ByTrees(0.0f);
    const auto labels = static_cast<size_t>(view.num_labels());
    if (sums_.size() < labels) {  // a point leaves both as it found them
      sums_.resize(labels, kUntouched);
      tree_sums_.resize(labels, 0.0f);
    }
    count_ = 0;
    reached_.clear();
    ForEachRow(view.wide, view.weights, batch, b,
               [&](const int32_t* own, const float* row, int64_t n, float x) {
                 AddRow(own, row, n, x);
               });
    for (const TreeView& tree : view.trees) {
      search_.Run(tree, batch, b, [&](int32_t label, float log_score) {
        float& sum = tree_sums_[static_cast<size_t>(label)];
        if (sum == 0) reached_.push_back(label);
        sum += std::exp(log_score);
      });
    }
    for (const int32_t label : reached_) {
      if (Untouched(sums_[static_cast<size_t>(label)])) Touch(label);
    }
    if (!view.near.Say()) return;
    nearest_.Run(view.near, batch, b, view.num_labels(), [&](int32_t label, float share) {
      float& sum = sums_[static_cast<size_t>(label)];
      if (Untouched(sum)) Touch(label);
      sum += view.near.weight * share;
    });
  }

  // Offers the touched labels and the first of the others, and forgets the point. What is forgotten
  // already is a NaN and doesn't rank.
  void Offer(int64_t k, TopK* best) {
    OfferOthers(k, best);
    for (const int32_t label : reached_) {
      const auto l = static_cast<size_t>(label);
      best->Offer(view_->weight * (sums_[l] + view_->ByTrees(tree_sums_[l])), label);
      sums_[l] = kUntouched;
      tree_sums_[l] = 0.0f;
    }
    float floor = best->floor();
    for (size_t i = 0; i < count_; ++i) {
      float& sum = sums_[static_cast<size_t>(touched_[i])];
      const float score = view_->weight * (sum + far_);
      sum = kUntouched;
      if (!(score >= floor)) continue;
      best->Offer(score, touched_[i]);
      floor = best->floor();
    }
  }

  // Writes the touched labels, and forgets the point.
  void Write(Touched* to) {
    words_.resize(static_cast<size_t>(view_->num_labels() + 63) / 64, 0);
    for (size_t i = 0; i < count_; ++i) {
      words_[static_cast<size_t>(touched_[i] >> 6)] |= 1ull << (touched_[i] & 63);
    }
    to->labels.resize(count_), to->scores.resize(count_);
    size_t at = 0;
    for (size_t word = 0; word < words_.size(); ++word) {
      for (uint64_t bits = words_[word]; bits; bits &= bits - 1, ++at) {
        const size_t l = word * 64 + static_cast<size_t>(__builtin_ctzll(bits));
        const float by_trees = tree_sums_[l] == 0 ? far_ : view_->ByTrees(tree_sums_[l]);
        to->labels[at] = static_cast<int32_t>(l);
        to->scores[at] = view_->weight * (sums_[l] + by_trees);
        sums_[l] = kUntouched;
        tree_sums_[l] = 0.0f;
      }
      words_[word] = 0;
    }
    to->labels.resize(at), to->scores.resize(at);  // fewer where one came twice
  }

 private:
  // A sum starts at the bias where it is touched first. What is kept untouched is a signaling NaN:
  // no sum is ever one.
  void AddRow(const int32_t* labels, const float* row, int64_t n, float x) {
    Reserve(static_cast<size_t>(n));
    const auto in_range = static_cast<uint32_t>(view_->num_labels());
    float* sums = sums_.data();
    const float* const before[] = {sums, view_->bias};  // a table, where `?:` would be a branch
    int32_t* touched = touched_.data();
    size_t count = count_;
    for (int64_t k = 0; k < n; ++k) {
      const int32_t label = labels[k];
      if (static_cast<uint32_t>(label) >= in_range) continue;
      const bool first = Untouched(sums[label]);
      touched[count] = label;  // kept only where it is the first time: no branch to mispredict
      count += first;
      sums[label] = before[first][label] + x * row[k];
    }
    count_ = count;
  }

  void Touch(int32_t label) {
    Reserve(1);
    sums_[static_cast<size_t>(label)] = view_->bias[label];
    touched_[count_++] = label;
  }

  void OfferOthers(int64_t k, TopK* best) const {
    const int64_t labels = view_->num_labels();
    for (int64_t i = 0; i < labels && k > 0; ++i) {
      const int32_t label = view_->order[i];
      if (label < 0 || label >= labels || !Untouched(sums_[static_cast<size_t>(label)])) continue;
      const float score = view_->weight * (view_->bias[label] + far_);
      if (!(score > -std::numeric_limits<float>::infinity())) continue;
      best->Offer(score, label);
      --k;
    }
  }

  // Room for n more, and one to write past them.
  void Reserve(size_t n) {
    if (touched_.size() <= count_ + n) touched_.resize(2 * (count_ + n) + 1);
  }

  static constexpr float kUntouched = std::numeric_limits<float>::signaling_NaN();
  static bool Untouched(float sum) {
    uint32_t bits, untouched;
    std::memcpy(&bits, &sum, sizeof(bits));
    std::memcpy(&untouched, &kUntouched, sizeof(untouched));
    return bits == untouched;
  }

  const EnsembleView* view_ = nullptr;
  float far_ = 0;  // what the trees add to a label out of every beam
  std::vector<float> sums_, tree_sums_;  // by label
  std::vector<int32_t> touched_;         // the first count_ of them
  size_t count_ = 0;
  std::vector<int32_t> reached_;  // by the trees
  TreeSearch search_;
  NearestPoints nearest_;
  std::vector<uint64_t> words_;
};

// scores[i] = what label begin + i scores beside the network's where it is not touched.
inline void UntouchedScores(const EnsembleView& view, int64_t begin, int64_t end, float* scores) {
  const float far = view.ByTrees(0.0f);
  for (int64_t l = begin; l < end; ++l) scores[l - begin] = view.weight * (view.bias[l] + far);
}

// The scores of one point beside the network's: those of labels [begin, end).
inline void RestOfOne(const EnsembleView& view, const Touched& own, int64_t begin, int64_t end,
                      float* rest) {
  UntouchedScores(view, begin, end, rest);
  const auto at = std::lower_bound(own.labels.begin(), own.labels.end(), begin);
  for (auto i = static_cast<size_t>(at - own.labels.begin());
       i < own.labels.size() && own.labels[i] < end; ++i) {
    rest[own.labels[i] - begin] = own.scores[i];
  }
}

// The same for groups of points and slabs of rows, as `ScanMany` asks for them from `begin` on.
class RestOfMany {
 public:
  RestOfMany(const EnsembleView& view, const std::vector<Touched>& points, int64_t begin)
      : view_(view), points_(points) {
    for (const Touched& own : points) {
      const auto at = std::lower_bound(own.labels.begin(), own.labels.end(), begin);
      next_.push_back(static_cast<size_t>(at - own.labels.begin()));
    }
  }

  const float* operator()(int64_t g, int64_t slab, int64_t slab_end) {
    if (slab != slab_) UntouchedScores(view_, slab, slab_end, untouched_);
    slab_ = slab;
    for (int64_t r = 0; r < slab_end - slab; ++r) {
      std::fill_n(rest_ + r * kLanes, kLanes, untouched_[r]);
    }
    const int64_t first = g * kLanes;
    const int64_t end = std::min(first + kLanes, static_cast<int64_t>(points_.size()));
    for (int64_t b = first; b < end; ++b) {
      const Touched& own = points_[static_cast<size_t>(b)];
      size_t& next = next_[static_cast<size_t>(b)];
      for (; next < own.labels.size() && own.labels[next] < slab_end; ++next) {
        rest_[(own.labels[next] - slab) * kLanes + b - first] = own.scores[next];
      }
    }
    return rest_;
  }

 private:
  const EnsembleView& view_;
  const std::vector<Touched>& points_;
  std::vector<size_t> next_;  // by point, the first touched label that hasn't been asked for
  int64_t slab_ = -1;
  float untouched_[kSlabRows], rest_[kSlabRows * kLanes];
};

}  // namespace sparse_jax
