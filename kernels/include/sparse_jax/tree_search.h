// The search for the best labels of a point in a label tree, level by level with a beam.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse_jax/common.h"
#include "sparse_jax/wide.h"

namespace sparse_jax {

// Nodes are numbered level by level from the root, 0; inner node i has children children[i] to
// children[i + 1]. The last level's nodes are labels[0], labels[1], … Nothing here is trusted.
struct TreeView {
  WideView weights;  // by node
  const float* values;
  const float* bias;
  const int32_t* children;  // [inner + 1]
  int64_t inner;
  const int32_t* labels;  // [N]
  int64_t num_labels;
  int64_t depth, beam;

  int64_t Begin(int64_t node) const {
    return std::clamp<int64_t>(children[node], 0, weights.num_labels);
  }
  int64_t End(int64_t node) const {
    return std::clamp<int64_t>(children[node + 1], Begin(node), weights.num_labels);
  }
};

// places[i] = the first place of row [n] whose number is not below begins[i]. The searches go hand
// in hand and without a branch, so that they wait for memory together.
inline void LowerBounds(const int32_t* row, int32_t n, const int32_t* __restrict__ begins,
                        int64_t count, int32_t* __restrict__ places) {
  std::fill_n(places, count, 0);
  if (n == 0) return;
  for (int32_t half; n > 1; n -= half) {
    half = n / 2;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t place = places[i];
      places[i] = place + (-static_cast<int32_t>(row[place + half - 1] < begins[i]) & half);
    }
  }
  for (int64_t i = 0; i < count; ++i) places[i] += row[places[i]] < begins[i];
}

// The levels below the root of what is a tree: its first node on each level leads to the next.
inline int64_t TreeDepth(const int32_t* children, int64_t inner) {
  int64_t depth = 0;
  for (int64_t node = 0, next; node < inner; node = next) {
    next = children[node];
    ++depth;
    if (next <= node) break;
  }
  return depth;
}

// scores[i] -= max(0, 1 - sums[i])^2.
SPARSE_JAX_CLONES static void TakeShortfalls(const float* __restrict__ sums, int64_t n,
                                             float* __restrict__ scores) {
  for (int64_t i = 0; i < n; ++i) {
    const float shortfall = std::max(1.0f - sums[i], 0.0f);
    scores[i] -= shortfall * shortfall;
  }
}

// The score of a label is exp(-sum over its path of max(0, 1 - s)^2). Keeps its scratch.
class TreeSearch {
 public:
  // visit(label, log of its score) for the labels that the search reaches.
  template <typename Visit>
  void Run(const TreeView& tree, const WideBatch& batch, int64_t b, Visit&& visit) {
    entries_.clear();
    ForEachRow(tree.weights, tree.values, batch, b,
               [this](const int32_t* nodes, const float* row, int64_t n, float x) {
                 if (n > 0) entries_.push_back({nodes, row, static_cast<int32_t>(n), x});
               });
    front_.assign(1, {0, 0.0f});
    last_ = 1;
    for (int64_t level = 0; level < tree.depth && !front_.empty(); ++level) {
      Expand(tree);
      if (level + 1 < tree.depth) Choose(tree.beam);
    }
    for (const Range& range : ranges_) {
      for (int64_t c = std::max<int64_t>(range.begin, tree.inner); c < range.end; ++c) {
        if (c - tree.inner >= tree.num_labels) break;
        const int32_t label = tree.labels[c - tree.inner];
        if (label < 0 || label >= tree.num_labels) continue;
        visit(label, scores_[static_cast<size_t>(c - range.shift)]);
      }
    }
  }

 private:
  struct Path {
    int32_t node;
    float score;  // its log
  };
  struct Range {  // of nodes: node c is at place c - shift of sums_ and scores_
    int32_t begin, end, shift;
  };
  struct Entry {  // the rest of a feature's row
    const int32_t* nodes;
    const float* weights;
    int32_t size;
    float x;
  };

  // From the nodes in front_ to all their children. Nodes that were passed don't come again, which
  // cuts off what isn't a tree.
  void Expand(const TreeView& tree) {
    ranges_.clear();
    scores_.clear();
    for (const Path& path : front_) {
      if (path.node >= tree.inner) continue;
      const auto end = static_cast<int32_t>(tree.End(path.node));
      const int32_t begin = std::max(static_cast<int32_t>(tree.Begin(path.node)), last_);
      if (begin >= end) continue;
      const auto shift = begin - static_cast<int32_t>(scores_.size());
      if (!ranges_.empty() && ranges_.back().end == begin) {
        ranges_.back().end = end;
      } else {
        ranges_.push_back({begin, end, shift});
      }
      scores_.insert(scores_.end(), static_cast<size_t>(end - begin), path.score);
      last_ = end;
    }
    sums_.resize(scores_.size());
    for (const Range& range : ranges_) {
      std::copy(tree.bias + range.begin, tree.bias + range.end,
                sums_.data() + (range.begin - range.shift));
    }
    FindChildren();
    const int32_t* places = places_.data();
    for (Entry& entry : entries_) {
      AddChildren(&entry, places);
      places += ranges_.size();
    }
    TakeShortfalls(sums_.data(), static_cast<int64_t>(sums_.size()), scores_.data());
  }

  // Where each range begins in each row.
  void FindChildren() {
    constexpr size_t kAhead = 2;
    const size_t count = ranges_.size();
    begins_.clear();
    for (const Range& range : ranges_) begins_.push_back(range.begin);
    places_.resize(entries_.size() * count);
    int32_t* places = places_.data();
    for (size_t e = 0; e < entries_.size(); ++e, places += count) {
      const Entry& entry = entries_[e];
      if (count > 1 && e + kAhead < entries_.size()) PrefetchSearch(entries_[e + kAhead]);
      if (count == 1 && entry.size > 0 && entry.nodes[0] >= begins_[0]) {
        places[0] = 0;
        continue;
      }
      LowerBounds(entry.nodes, entry.size, begins_.data(), static_cast<int64_t>(count), places);
      for (size_t i = 0; i < count; ++i) Prefetch(entry.weights + places[i], 1);
    }
  }

  // Asks for what the first three steps of a search may look at.
  static void PrefetchSearch(const Entry& entry) {
    for (int32_t i = 1; i < 8; ++i) Prefetch(entry.nodes + entry.size / 8 * i, 1);
  }

  void AddChildren(Entry* entry, const int32_t* places) {
    const int32_t* const nodes = entry->nodes;
    const float* const weights = entry->weights;
    const int32_t size = entry->size;
    const float x = entry->x;
    int32_t at = 0;
    for (const Range range : ranges_) {
      float* const sums = sums_.data();
      for (at = *places++; at < size && nodes[at] < range.end; ++at) {
        if (nodes[at] < range.begin) continue;  // where numbers don't ascend
        sums[nodes[at] - range.shift] += x * weights[at];
      }
    }
    *entry = {nodes + at, weights + at, size - at, x};
  }

  // Keeps the best, the first where they tie, in order. NaN comes before all, as in JAX's top_k:
  // compared as a number it would leave no order to select by.
  void Choose(int64_t beam) {
    chosen_.resize(scores_.size());
    for (size_t i = 0; i < chosen_.size(); ++i) chosen_[i] = static_cast<int32_t>(i);
    if (static_cast<int64_t>(chosen_.size()) > beam) {
      auto better = [this](int32_t a, int32_t b) {
        const float x = scores_[static_cast<size_t>(a)], y = scores_[static_cast<size_t>(b)];
        if (std::isnan(x) != std::isnan(y)) return std::isnan(x);
        return x > y || x < y ? x > y : a < b;
      };
      std::nth_element(chosen_.begin(), chosen_.begin() + beam, chosen_.end(), better);
      chosen_.resize(static_cast<size_t>(beam));
      std::sort(chosen_.begin(), chosen_.end());
    }
    front_.clear();
    size_t r = 0;
    for (const int32_t place : chosen_) {
      while (place + ranges_[r].shift >= ranges_[r].end) ++r;
      front_.push_back({place + ranges_[r].shift, scores_[static_cast<size_t>(place)]});
    }
  }

  std::vector<Path> front_;
  std::vector<Entry> entries_;
  std::vector<Range> ranges_;
  int32_t last_ = 0;  // the end of the last range
  std::vector<int32_t> begins_, places_, chosen_;
  std::vector<float> sums_, scores_;
};

}  // namespace sparse_jax
