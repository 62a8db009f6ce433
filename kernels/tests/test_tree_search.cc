// The beam search of a label tree against brute force, and on arrays that lie.
#include "sparse_jax/tree_search.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace {

namespace sj = sparse_jax;

// A root with 3 children, which have 0 to 4 labels each; weights of random nodes for each feature.
struct Tree {
  std::vector<int32_t> offsets = {0}, nodes, children = {1, 4}, labels;
  std::vector<float> values, bias;
  std::vector<std::vector<float>> dense;  // [feature][node]

  explicit Tree(std::mt19937& rng) {
    std::normal_distribution<float> normal;
    for (int v = 1; v < 4; ++v) children.push_back(children.back() + rng() % 5);
    const int32_t count = children.back();
    for (int32_t l = 0; l < count - 4; ++l) labels.push_back(l);
    std::shuffle(labels.begin(), labels.end(), rng);
    for (int32_t v = 0; v < count; ++v) bias.push_back(normal(rng));
    for (int f = 0; f < 6; ++f) {
      dense.emplace_back(count, 0.0f);
      for (int32_t v = 1; v < count; ++v) {
        if (rng() % 2) nodes.push_back(v), values.push_back(dense[f][v] = normal(rng));
      }
      offsets.push_back(static_cast<int32_t>(nodes.size()));
    }
  }
  sj::TreeView View(int64_t depth, int64_t beam) const {
    const auto size = [](const auto& of) { return static_cast<int64_t>(of.size()); };
    return {{offsets.data(), nodes.data(), size(offsets) - 1, size(nodes), size(bias)},
            values.data(), bias.data(), children.data(), size(children) - 1, labels.data(),
            size(labels), depth, beam};
  }
};

void TestSearch() {
  std::mt19937 rng(1);
  const std::vector<int32_t> ids = {-1, 0, 2, 6, 5, 99, 1 << 30}, rows(7, 0);
  const std::vector<float> x = {9, 0.7f, -1, 9, 2, 9, 9};  // those of no feature weigh the most
  const sj::WideBatch batch = {ids.data(), x.data(), sj::SortByPosition(rows.data(), 7, 1)};
  sj::TreeSearch search;  // its scratch is used throughout
  for (int trial = 0; trial < 3000; ++trial) {
    Tree tree(rng);
    std::vector<float> want(tree.labels.size()), out = want;
    auto run = [&](int64_t depth, int64_t beam) {
      search.Run(tree.View(depth, beam), batch, 0,
                 [&](int32_t label, float log_score) { out[label] += std::exp(log_score); });
    };
    auto loss = [&](int32_t v) {
      float shortfall = 1 - tree.bias[v];
      for (const size_t e : {1, 2, 4}) shortfall -= x[e] * tree.dense[ids[e]][v];
      return shortfall > 0 ? shortfall * shortfall : 0;
    };
    for (int32_t v = 1; v < 4; ++v) {
      for (int32_t c = tree.children[v]; c < tree.children[v + 1]; ++c) {
        want[tree.labels[c - 4]] = std::exp(-loss(v) - loss(c));
      }
    }
    run(2, 3);
    for (size_t l = 0; l < want.size(); ++l) CHECK(std::abs(out[l] - want[l]) < 1e-5);
    // Lies, near and far, among what stays true and leads further into them.
    for (auto* array : {&tree.offsets, &tree.nodes, &tree.children, &tree.labels}) {
      for (int32_t& v : *array) {
        const auto far = static_cast<int32_t>(rng() % 2 ? 0x80000000u : rng());
        if (rng() % 3 == 0) v = rng() % 2 ? far : static_cast<int32_t>(rng() % 20) - 2;
      }
    }
    run(1 + rng() % 12, rng() % 2 ? 2 : 1 << 30);
    for (const float score : out) CHECK(std::isfinite(score) && score >= 0);
    tree.children = {0, 1 << 30, 0, 1 << 30, 0};  // 2^40 paths, were they all followed
    run(40, 1 << 30);
    for (float& b : tree.bias) b = rng() % 2 ? b : std::numeric_limits<float>::quiet_NaN();
    run(2, 2);
  }
}

// Three nodes of one label each; the only one that is kept is that whose score is NaN.
void NanComesFirst() {
  const std::vector<int32_t> offsets = {0, 0}, nodes, children = {1, 4, 5, 6, 7};
  const std::vector<int32_t> labels = {0, 1, 2};
  const std::vector<float> values, none;
  std::vector<float> bias(7, 2.0f);
  bias[2] = std::numeric_limits<float>::quiet_NaN();
  const sj::TreeView tree = {{offsets.data(), nodes.data(), 1, 0, 7}, values.data(), bias.data(),
                             children.data(), 4, labels.data(), 3,
                             sj::TreeDepth(children.data(), 4), 1};
  CHECK(tree.depth == 2);
  const sj::WideBatch batch = {nodes.data(), none.data(), sj::SortByPosition(nodes.data(), 0, 1)};
  std::vector<int32_t> reached;
  sj::TreeSearch search;
  search.Run(tree, batch, 0, [&](int32_t label, float score) {
    CHECK(std::isnan(score));
    reached.push_back(label);
  });
  CHECK(reached == std::vector<int32_t>{1});
}

}  // namespace

int main() {
  TestSearch();
  NanComesFirst();
  std::printf("tree_search: ok\n");
}
