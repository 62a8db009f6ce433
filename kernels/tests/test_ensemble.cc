// The prediction by all parts at once against the formula over all labels, and on arrays that lie.
#include "sparse_jax/ensemble.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "check.h"

namespace {

namespace sj = sparse_jax;
using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;
using Ranked = std::vector<std::pair<float, int32_t>>;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kFeatures = 8;

int64_t Size(const Ints& of) { return static_cast<int64_t>(of.size()); }

struct Random {
  std::mt19937 bits{7};
  std::normal_distribution<float> normal;
  int32_t Below(int64_t n) { return static_cast<int32_t>(bits() % static_cast<uint64_t>(n)); }
  float Normal() { return normal(bits); }
  float Small() { return static_cast<float>(Below(7) - 3); }  // sums are exact in any order
};

// Weights by feature over some of n columns, from `first` on.
struct Sparse {
  Ints offsets = {0}, ids;
  Floats weights, bias;

  Sparse(Random& random, int32_t first, int32_t n, int share) {
    for (int32_t f = 0; f < kFeatures; ++f) {
      for (int32_t c = first; c < n; ++c) {
        if (random.Below(share) == 0) ids.push_back(c), weights.push_back(random.Normal());
      }
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
    for (int32_t c = 0; c < n; ++c) bias.push_back(0.5f * random.Small());  // many ties
  }
  sj::WideView View() const {
    return {offsets.data(), ids.data(), Size(offsets) - 1, Size(ids),
            static_cast<int64_t>(bias.size())};
  }
};

// Labels in random order below two levels of nodes, some of which have none.
struct Tree {
  Ints children, labels;
  Sparse nodes;

  Tree(Random& random, int32_t num_labels) : nodes(random, 1, Grow(random, num_labels), 2) {
    for (float& b : nodes.bias) b = random.Below(6) ? random.Normal() : -20;  // of score 0
  }
  sj::TreeView View(int64_t beam) const {
    return {nodes.View(), nodes.weights.data(), nodes.bias.data(), children.data(),
            Size(children) - 1, labels.data(), Size(labels),
            sj::TreeDepth(children.data(), Size(children) - 1), beam};
  }

 private:
  int32_t Grow(Random& random, int32_t num_labels) {
    labels.resize(static_cast<size_t>(num_labels));
    std::iota(labels.begin(), labels.end(), 0);
    std::shuffle(labels.begin(), labels.end(), random.bits);
    children = {1, 4};
    const int32_t parts = 3 + random.Below(9);
    for (const auto& [of, count] : {std::pair{parts, 3}, std::pair{num_labels, parts}}) {
      Ints cuts = {of};
      for (int32_t i = 1; i < count; ++i) cuts.push_back(random.Below(of + 1));
      std::sort(cuts.begin(), cuts.end());
      const int32_t first = children.back();
      for (const int32_t cut : cuts) children.push_back(first + cut);
    }
    return children.back();
  }
};

// Stored points by feature, of which many are alike, and their labels.
struct Near {
  Sparse points;
  Ints label_offsets = {0}, labels;
  Floats label_weights;

  Near(Random& random, int32_t num_points, int32_t num_labels)
      : points(random, 0, num_points, 3) {
    for (float& x : points.weights) x = 0.5f * static_cast<float>(random.Below(4));
    for (float& x : points.bias) x = 0;
    for (int32_t p = 0; p < num_points; ++p) {
      for (int i = num_labels > 0 ? random.Below(4) : 0; i > 0; --i) {
        labels.push_back(random.Below(num_labels));
        label_weights.push_back(0.25f * static_cast<float>(1 + random.Below(4)));
      }
      label_offsets.push_back(static_cast<int32_t>(labels.size()));
    }
  }
  sj::NeighboursView View(float weight) const {
    return {points.View(), points.weights.data(), label_offsets.data(), labels.data(),
            label_weights.data(), Size(labels), weight};
  }
};

struct Case {
  int32_t n, num_labels, k, d, beam;
  Sparse wide;
  std::vector<Tree> trees;
  Near near;
  Ints order, features, examples;
  Floats values, queries, rows, row_bias;
  float weight, tree_weight, near_weight;

  Case(Random& random, bool odd)
      : n(1 + random.Below(20)), num_labels(random.Below(random.Below(2) ? 6 : 200)),
        k(1 + random.Below(random.Below(2) ? 5 : 300)), d(random.Below(2) * (1 + random.Below(20))),
        beam(1 + random.Below(4)), wide(random, 0, num_labels, 4),
        near(random, random.Below(random.Below(2) ? 4 : 300), num_labels),
        weight(0.5f + random.Below(2)), tree_weight(0.25f),
        near_weight(0.5f * static_cast<float>(random.Below(3))) {
    for (int t = random.Below(4); t > 0; --t) trees.emplace_back(random, num_labels);
    for (int32_t b = 0; b < n; ++b) {
      for (int e = random.Below(5); e > 0; --e) {
        static const int32_t kWild[] = {-1, INT32_MIN, INT32_MAX, kFeatures};
        features.push_back(random.Below(5) ? random.Below(kFeatures) : kWild[random.Below(4)]);
        examples.push_back(b);
        values.push_back(random.Normal());
      }
    }
    for (int32_t i = 0; i < n * d; ++i) queries.push_back(random.Small());
    for (int32_t i = 0; i < num_labels * d; ++i) rows.push_back(random.Small());
    for (int32_t i = 0; i < num_labels; ++i) row_bias.push_back(random.Small());
    if (odd) {
      for (Floats* some : {&wide.weights, &wide.bias, &row_bias}) {
        for (float& x : *some) {
          if (random.Below(9) == 0) x = random.Below(2) ? kNan : -kInf;
        }
      }
    }
    order.resize(static_cast<size_t>(num_labels));
    std::iota(order.begin(), order.end(), 0);
    const float of_nan = random.Below(2) ? kInf : -kInf;  // NaN may stand anywhere
    auto rank = [&](int32_t l) { return std::isnan(wide.bias[l]) ? of_nan : wide.bias[l]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return rank(a) > rank(b); });
  }

  sj::EnsembleView View() const {
    sj::EnsembleView view{wide.View(), wide.weights.data(), wide.bias.data(), order.data(), weight,
                          tree_weight, {}, near.View(near_weight)};
    for (const Tree& tree : trees) view.trees.push_back(tree.View(beam));
    return view;
  }
  sj::WideBatch Batch() const {
    return {features.data(), values.data(), sj::SortByPosition(examples.data(), Size(examples), n)};
  }

  // bias + sum of value * weight at each column, in order of the entries.
  Floats Sums(const Sparse& of, int32_t b) const {
    Floats sums = of.bias;
    for (size_t e = 0; e < features.size(); ++e) {
      if (examples[e] != b || features[e] < 0 || features[e] >= kFeatures) continue;
      const auto f = static_cast<size_t>(features[e]);
      for (int32_t i = of.offsets[f]; i < of.offsets[f + 1]; ++i) {
        sums[of.ids[i]] += values[e] * of.weights[i];
      }
    }
    return sums;
  }
  Floats TreeScores(const Tree& tree, int32_t b) const {
    const Floats sums = Sums(tree.nodes, b);
    Ranked front = {{0.0f, 0}};
    const int32_t inner = static_cast<int32_t>(tree.children.size()) - 1;
    for (int level = 0; level < 3; ++level) {
      Ranked next;
      for (const auto& [score, node] : front) {
        for (int32_t c = tree.children[node]; c < tree.children[node + 1]; ++c) {
          const float shortfall = std::max(1.0f - sums[c], 0.0f);
          next.emplace_back(score - shortfall * shortfall, c);
        }
      }
      if (level < 2) Sort(&next, beam);
      front = next;
    }
    Floats out(static_cast<size_t>(num_labels), 0.0f);
    for (const auto& [score, node] : front) out[tree.labels[node - inner]] = std::exp(score);
    return out;
  }
  Floats Shares(int32_t b) const {
    Floats out(static_cast<size_t>(num_labels), 0.0f);
    Ranked points;
    const Floats sums = Sums(near.points, b);
    for (int32_t p = 0; p < static_cast<int32_t>(sums.size()); ++p) {
      const float likeness = sums[p];
      if (likeness > 0 && std::isfinite(likeness)) points.emplace_back(likeness, p);
    }
    Sort(&points, sj::kNear);
    float total = 0;
    for (const auto& [likeness, p] : points) {
      const float second = (likeness / points[0].first) * (likeness / points[0].first);
      const float eighth = (second * second) * (second * second);
      total += eighth * eighth;
      for (int32_t i = near.label_offsets[p]; i < near.label_offsets[p + 1]; ++i) {
        out[near.labels[i]] += eighth * eighth * near.label_weights[i];
      }
    }
    for (float& share : out) share = total > 0 ? share / total : 0;
    return out;
  }
  // The formula for all labels, and the best of them.
  Ranked Want(int32_t b) const {
    Floats by_trees(static_cast<size_t>(num_labels), 0.0f);
    for (const Tree& tree : trees) {
      const Floats own = TreeScores(tree, b);
      for (size_t l = 0; l < own.size(); ++l) by_trees[l] += own[l];
    }
    const Floats linear = Sums(wide, b), shares = Shares(b);
    Ranked all;
    for (int32_t l = 0; l < num_labels; ++l) {
      float rest = linear[l];
      if (shares[l] != 0) rest += near_weight * shares[l];
      if (!trees.empty()) {
        rest += tree_weight * std::log(by_trees[l] / static_cast<float>(trees.size()) + 1e-6f);
      }
      float logit = 0;
      for (int32_t i = 0; i < d; ++i) logit += queries[b * d + i] * rows[l * d + i];
      const float score = d ? logit + row_bias[l] + weight * rest : weight * rest;
      if (score > -kInf) all.emplace_back(score, l);
    }
    Sort(&all, k);
    all.resize(static_cast<size_t>(k), {-kInf, -1});
    return all;
  }
  static void Sort(Ranked* all, int64_t most) {
    std::sort(all->begin(), all->end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    if (static_cast<int64_t>(all->size()) > most) all->resize(static_cast<size_t>(most));
  }
};

Ranked Written(sj::TopK best, int32_t k) {
  Floats scores(static_cast<size_t>(k));
  Ints ids(static_cast<size_t>(k));
  best.Write(scores.data(), ids.data());
  Ranked out;
  for (int32_t i = 0; i < k; ++i) out.emplace_back(scores[i], ids[i]);
  return out;
}

// As the handler: what each point finds without a network, or with it, in one of both ways.
std::vector<Ranked> Find(const Case& x, sj::TouchedScores* scratch, int64_t cut, bool few) {
  const sj::EnsembleView view = x.View();
  const sj::WideBatch batch = x.Batch();
  const auto n = static_cast<size_t>(x.n);
  std::vector<sj::TopK> best(n, sj::TopK(x.k));
  std::vector<sj::Touched> touched(n);
  for (size_t b = 0; b < n; ++b) {
    scratch->Gather(view, batch, static_cast<int64_t>(b));
    if (x.d == 0) {
      scratch->Offer(x.k, &best[b]);
    } else {
      scratch->Write(&touched[b]);
    }
  }
  // As many rows as get bounds, in half the cases: that makes no difference.
  const int64_t rows = cut % 2 ? sj::ManyQueries::kLeastRows : x.num_labels;
  sj::ManyQueries many(x.queries.data(), x.n, x.d, rows);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{cut, x.num_labels}, {0, cut}}) {
    if (x.d == 0) break;
    if (!few) {
      sj::ScanMany(&many, x.rows.data(), x.row_bias.data(), begin, end,
                   sj::RestOfMany(view, touched, begin), &best);
    }
    for (size_t b = 0; few && b < n; ++b) {
      Floats rest(static_cast<size_t>(end - begin));
      sj::RestOfOne(view, touched[b], begin, end, rest.data());
      sj::ScanOne(x.queries.data() + b * static_cast<size_t>(x.d), x.rows.data(),
                  x.row_bias.data(), x.d, begin, end, rest.data(), &best[b]);
    }
  }
  std::vector<Ranked> out;
  for (const sj::TopK& own : best) out.push_back(Written(own, x.k));
  return out;
}

void EqualsTheFormula() {
  Random random;
  sj::TouchedScores scratch;  // used throughout
  for (int trial = 0; trial < 1500; ++trial) {
    const Case x(random, trial % 3 == 0);
    const auto found = Find(x, &scratch, random.Below(x.num_labels + 1), random.Below(2));
    for (int32_t b = 0; b < x.n; ++b) CHECK(found[static_cast<size_t>(b)] == x.Want(b));
  }
}

void LiesStayInside() {
  Random random;
  sj::TouchedScores scratch;
  for (int trial = 0; trial < 1500; ++trial) {
    Case x(random, false);
    std::vector<Ints*> arrays = {&x.wide.offsets,       &x.wide.ids,           &x.order,
                                 &x.near.points.offsets, &x.near.points.ids, &x.near.label_offsets,
                                 &x.near.labels};
    for (Tree& tree : x.trees) {
      arrays.insert(arrays.end(), {&tree.nodes.offsets, &tree.nodes.ids, &tree.children,
                                   &tree.labels});
    }
    for (Ints* array : arrays) {
      const int rare = 1 + random.Below(20);
      for (int32_t& v : *array) {
        const auto far = static_cast<int32_t>(random.Below(2) ? 0x80000000u : random.bits());
        if (random.Below(rare) == 0) v = random.Below(2) ? far : random.Below(220) - 2;
      }
    }
    for (const Ranked& found : Find(x, &scratch, 0, random.Below(2))) {
      for (const auto& [score, id] : found) CHECK(id >= -1 && id < x.num_labels && score == score);
    }
  }
}

}  // namespace

int main() {
  EqualsTheFormula();
  LiesStayInside();
  std::puts("test_ensemble: ok");
}
