// A tree over the labels with a linear classifier for each node: training of all children of a node
// at once. `tree_search.h` has the search.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "sparse_jax/common.h"
#include "sparse_jax/wide.h"

namespace sparse_jax {

// Point p has entries offsets[p] to offsets[p + 1].
struct SparsePoints {
  Span<int64_t> offsets;
  Span<int32_t> features;
  const float* values;
  int64_t num_features;

  int64_t size() const { return static_cast<int64_t>(offsets.size) - 1; }
};

// One level: node g has points members[member_offsets[g]…) and children child_offsets[g]… , which
// are numbered through the level; child c is right for points positives[positive_offsets[c]…).
struct TreeLevel {
  Span<int64_t> member_offsets;
  Span<int32_t> members;
  Span<int64_t> child_offsets;
  Span<int64_t> positive_offsets;
  Span<int32_t> positives;

  int64_t num_nodes() const { return static_cast<int64_t>(member_offsets.size) - 1; }
  int64_t num_children() const { return static_cast<int64_t>(positive_offsets.size) - 1; }
};

struct SvmOptions {
  float cost;
  int64_t iterations;
  float tolerance;
  float prune;  // weights below this are not kept
  uint32_t seed;
};

// What children learned: by node, then by feature, then by child.
struct NodeWeights {
  std::vector<int32_t> features, children;
  std::vector<float> weights;
};

// A feature of a point, by its place among those of the node, and its value.
struct NodeEntry {
  int32_t place;
  float value;
};

// sums[k] += value * weights[place, k] over n entries: k runs over classifiers, so that each of its
// sums keeps its order.
SPARSE_JAX_CLONES inline void SumRows(const NodeEntry* entries, int64_t n, const float* weights,
                                      int64_t width, float* sums) {
  for (int64_t e = 0; e < n; ++e) {
    const float* row = weights + entries[e].place * width;
    const float value = entries[e].value;
    for (int64_t k = 0; k < width; ++k) sums[k] += value * row[k];
  }
}

// weights[place, k] += value * moves[k].
SPARSE_JAX_CLONES inline void MoveRows(const NodeEntry* entries, int64_t n, const float* moves,
                                       int64_t width, float* weights) {
  for (int64_t e = 0; e < n; ++e) {
    float* row = weights + entries[e].place * width;
    const float value = entries[e].value;
    for (int64_t k = 0; k < width; ++k) row[k] += value * moves[k];
  }
}

// Dual coordinate descent on the squared hinge with an L2 penalty (Hsieh et al. 2008, algorithm 1,
// without shrinking), for all children of a node at once: they see the same points in the same
// order, so a feature's weights for all of them lie together and are worked on together.
class NodeTrainer {
 public:
  NodeTrainer(const SparsePoints& points, const SvmOptions& options)
      : points_(points), options_(options),
        place_(static_cast<size_t>(points.num_features), -1) {}

  // Trains node g; `bias` is the level's.
  NodeWeights Train(const TreeLevel& level, int64_t g, float* bias) {
    const int32_t* members = level.members.data + level.member_offsets.data[g];
    const int64_t n = level.member_offsets.data[g + 1] - level.member_offsets.data[g];
    const int64_t first = level.child_offsets.data[g];
    const int64_t children = level.child_offsets.data[g + 1] - first;
    width_ = (children + 7) / 8 * 8;
    Gather(members, n);
    SetSigns(level, members, n, first, children);
    weights_.assign(features_.size() * static_cast<size_t>(width_), 0.0f);
    bias_.assign(static_cast<size_t>(width_), 0.0f);
    alphas_.assign(static_cast<size_t>(n * width_), 0.0f);
    open_.assign(static_cast<size_t>(width_), 0.0f);
    std::fill(open_.begin(), open_.begin() + children, 1.0f);
    for (int64_t i = 0; i < options_.iterations; ++i) {
      if (!Pass(n, Mix(options_.seed + static_cast<uint32_t>(i)))) break;
    }
    std::copy_n(bias_.begin(), children, bias + first);
    return Keep(first, children);
  }

 private:
  // The node's points with features renumbered in ascending order.
  void Gather(const int32_t* members, int64_t n) {
    features_.clear();
    starts_.assign(1, 0);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t e = points_.offsets.data[members[i]]; e < points_.offsets.data[members[i] + 1];
           ++e) {
        int32_t& place = place_[static_cast<size_t>(points_.features.data[e])];
        if (place < 0) features_.push_back(points_.features.data[e]), place = 0;
      }
    }
    std::sort(features_.begin(), features_.end());
    for (size_t i = 0; i < features_.size(); ++i) {
      place_[static_cast<size_t>(features_[i])] = static_cast<int32_t>(i);
    }
    entries_.clear();
    curvature_.clear();
    for (int64_t i = 0; i < n; ++i) {
      float square = 1.0f;  // of the bias
      for (int64_t e = points_.offsets.data[members[i]]; e < points_.offsets.data[members[i] + 1];
           ++e) {
        const float x = points_.values[e];
        square += x * x;
        entries_.push_back({place_[static_cast<size_t>(points_.features.data[e])], x});
      }
      starts_.push_back(static_cast<int64_t>(entries_.size()));
      curvature_.push_back(square + 0.5f / options_.cost);
    }
    for (const int32_t f : features_) place_[static_cast<size_t>(f)] = -1;
  }

  void SetSigns(const TreeLevel& level, const int32_t* members, int64_t n, int64_t first,
                int64_t children) {
    signs_.assign(static_cast<size_t>(n * width_), -1.0f);
    for (int64_t c = 0; c < children; ++c) {
      const int64_t end = level.positive_offsets.data[first + c + 1];
      const int32_t* at = members;  // both ascend
      for (int64_t k = level.positive_offsets.data[first + c]; k < end; ++k) {
        at = std::lower_bound(at, members + n, level.positives.data[k]);
        if (at == members + n) break;
        if (*at == level.positives.data[k]) {
          signs_[static_cast<size_t>((at - members) * width_ + c)] = 1.0f;
        }
      }
    }
  }

  // One pass over the points; whether some child has not converged.
  bool Pass(int64_t n, uint32_t key) {
    order_.resize(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t rank = Mix(static_cast<uint32_t>(i) * 0x9e3779b1u + key);
      order_[static_cast<size_t>(i)] = rank << 32 | static_cast<uint64_t>(i);
    }
    std::sort(order_.begin(), order_.end());
    const auto width = static_cast<size_t>(width_);
    most_.assign(width, -std::numeric_limits<float>::infinity());
    least_.assign(width, std::numeric_limits<float>::infinity());
    moves_.resize(width);
    scores_.resize(width);
    for (const uint64_t ranked : order_) {
      const auto i = static_cast<int64_t>(ranked & 0xffffffffu);
      std::copy(bias_.begin(), bias_.end(), scores_.begin());
      const int64_t begin = starts_[static_cast<size_t>(i)];
      const int64_t count = starts_[static_cast<size_t>(i) + 1] - begin;
      const NodeEntry* entries = entries_.data() + begin;
      SumRows(entries, count, weights_.data(), width_, scores_.data());
      const float moved =
          Moves(signs_.data() + i * width_, scores_.data(), 0.5f / options_.cost,
                1.0f / curvature_[static_cast<size_t>(i)], open_.data(), width_,
                alphas_.data() + i * width_, most_.data(), least_.data(), moves_.data());
      if (moved == 0) continue;
      for (size_t k = 0; k < width; ++k) bias_[k] += moves_[k];
      MoveRows(entries, count, moves_.data(), width_, weights_.data());
    }
    bool any = false;
    for (size_t k = 0; k < width; ++k) {
      if (most_[k] - least_[k] <= options_.tolerance) open_[k] = 0;
      any |= open_[k] != 0;
    }
    return any;
  }

  // The dual variables of one point, moved to where their derivative vanishes, or to 0; the moves
  // times the signs, and the extremes of the projected gradients. Returns the sum of what moved.
  SPARSE_JAX_CLONES static float Moves(const float* signs, const float* scores, float ridge,
                                       float step, const float* open, int64_t width, float* alphas,
                                       float* most, float* least, float* moves) {
    float moved = 0;
    for (int64_t k = 0; k < width; ++k) {
      const float gradient = signs[k] * scores[k] - 1.0f + ridge * alphas[k];
      const float projected = alphas[k] > 0 ? gradient : std::min(gradient, 0.0f);
      most[k] = std::max(most[k], projected);
      least[k] = std::min(least[k], projected);
      const float next = std::max(alphas[k] - open[k] * gradient * step, 0.0f);
      moves[k] = (next - alphas[k]) * signs[k];
      alphas[k] = next;
    }
    for (int64_t k = 0; k < width; ++k) moved += std::fabs(moves[k]);
    return moved;
  }

  NodeWeights Keep(int64_t first, int64_t children) {
    NodeWeights kept;
    for (size_t f = 0; f < features_.size(); ++f) {
      const float* row = Row(static_cast<int32_t>(f));
      for (int64_t c = 0; c < children; ++c) {
        if (!(std::fabs(row[c]) >= options_.prune)) continue;
        kept.features.push_back(features_[f]);
        kept.children.push_back(static_cast<int32_t>(first + c));
        kept.weights.push_back(row[c]);
      }
    }
    return kept;
  }

  float* Row(int32_t place) { return weights_.data() + place * width_; }

  const SparsePoints& points_;
  const SvmOptions& options_;
  std::vector<int32_t> place_;  // of each feature in the node, -1 between uses
  std::vector<int32_t> features_;
  std::vector<int64_t> starts_;
  std::vector<NodeEntry> entries_;
  std::vector<float> curvature_;
  int64_t width_ = 0;  // children, rounded up to whole registers
  std::vector<float> signs_, alphas_;  // [n, width]
  std::vector<float> weights_;         // [features, width]
  std::vector<float> bias_, open_, most_, least_, moves_, scores_;  // [width]
  std::vector<uint64_t> order_;
};

// What is wrong with the arguments of training, or nothing.
inline std::string CheckTreeLevel(const SparsePoints& points, const TreeLevel& level) {
  auto within = [](Span<int32_t> ids, int64_t bound) {
    return std::all_of(ids.data, ids.data + ids.size,
                       [bound](int32_t id) { return id >= 0 && id < bound; });
  };
  if (!Ascends(points.offsets, points.features.size)) return "the offsets do not fit the ids";
  if (points.num_features < 0 || !within(points.features, points.num_features)) {
    return "a feature id is out of range";
  }
  if (!Ascends(level.member_offsets, level.members.size) ||
      level.positive_offsets.size == 0 ||
      !Ascends(level.child_offsets, level.positive_offsets.size - 1) ||
      level.child_offsets.size != level.member_offsets.size ||
      !Ascends(level.positive_offsets, level.positives.size)) {
    return "the offsets of the level do not fit";
  }
  if (!within(level.members, points.size()) || !within(level.positives, points.size())) {
    return "a point is out of range";
  }
  return "";
}

// Trains all nodes of a level that `CheckTreeLevel` has passed, on some threads; the biases of the
// children go to bias [children]. In handlers/label_tree.cc, compiled for speed.
NodeWeights FitTreeLevel(const SparsePoints& points, const TreeLevel& level,
                         const SvmOptions& options, int64_t threads, float* bias);

}  // namespace sparse_jax
