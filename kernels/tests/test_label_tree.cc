// The label tree: training, arguments that do not fit, and the search against a dense computation.
#include "sparse_jax/label_tree.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "check.h"

namespace sj = sparse_jax;

namespace {
template <typename T>
sj::Span<T> SpanOf(const std::vector<T>& values) { return {values.data(), values.size()}; }

// Points {0}, {1}, {0, 2}, {1, 2}, {} below one node of two children, which features 0 and 1 tell
// apart; and a node with neither points nor children.
struct Problem {
  std::vector<int64_t> offsets = {0, 1, 2, 4, 6, 6};
  std::vector<int32_t> features = {0, 1, 0, 2, 1, 2};
  std::vector<float> values = {1, 1, 1, 0.5f, 1, 0.5f};
  int64_t num_features = 4;
  std::vector<int64_t> member_offsets = {0, 4, 4}, child_offsets = {0, 2, 2};
  std::vector<int32_t> members = {0, 1, 2, 3}, positives = {0, 2, 1, 3};
  std::vector<int64_t> positive_offsets = {0, 2, 4};

  sj::SparsePoints Points() const {
    return {SpanOf(offsets), SpanOf(features), values.data(), num_features};
  }
  sj::TreeLevel Level() const {
    return {SpanOf(member_offsets), SpanOf(members), SpanOf(child_offsets),
            SpanOf(positive_offsets), SpanOf(positives)};
  }
  bool Fits() const { return sj::CheckTreeLevel(Points(), Level()).empty(); }
};

void TestTrainer() {
  const Problem p;
  const sj::SparsePoints points = p.Points();
  const sj::SvmOptions options = {1, 100, 1e-4f, 0.2f, 3};
  sj::NodeTrainer trainer(points, options);
  for (int again = 0; again < 2; ++again) {  // the scratch must come back clean
    float bias[2] = {7, 7};
    const sj::NodeWeights kept = trainer.Train(p.Level(), 0, bias);
    CHECK((kept.features == std::vector<int32_t>{0, 0, 1, 1}));  // nothing is left of feature 2
    CHECK((kept.children == std::vector<int32_t>{0, 1, 0, 1}));
    const auto& w = kept.weights;
    CHECK(w[0] > 0.5f && w[1] < -0.5f && w[2] < -0.5f && w[3] > 0.5f);
    CHECK(std::abs(bias[0]) < 0.1f && std::abs(bias[1]) < 0.1f);
    CHECK(trainer.Train(p.Level(), 1, bias).weights.empty());
  }
}

void TestBadInputIsRefused() {
  CHECK(Problem().Fits());
  auto refused = [](auto&& spoil) {
    Problem p;
    return spoil(p), !p.Fits();
  };
  CHECK(refused([](Problem& p) { p.num_features = -1, p.offsets.assign(6, 0), p.features = {}; }));
  for (auto of : {&Problem::offsets, &Problem::member_offsets, &Problem::child_offsets,
                  &Problem::positive_offsets}) {
    CHECK(refused([of](Problem& p) { (p.*of) = {}; }));
    CHECK(refused([of](Problem& p) { (p.*of)[0] = -1; }));
    CHECK(refused([of](Problem& p) { (p.*of)[1] = 5; }));
    CHECK(refused([of](Problem& p) { (p.*of).back() += 1; }));
  }
  CHECK(refused([](Problem& p) { p.child_offsets = {0, 2}; }));
  for (auto of : {&Problem::features, &Problem::members, &Problem::positives}) {
    CHECK(refused([of](Problem& p) { (p.*of)[0] = -1; }));
    CHECK(refused([of](Problem& p) { (p.*of)[3] = 5; }));
  }
}

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
    search.Run(tree.View(2, 3), batch, 0, out.data());
    for (size_t l = 0; l < want.size(); ++l) CHECK(std::abs(out[l] - want[l]) < 1e-5);
    // Lies, near and far, among what stays true and leads further into them.
    for (auto* array : {&tree.offsets, &tree.nodes, &tree.children, &tree.labels}) {
      for (int32_t& v : *array) {
        const auto far = static_cast<int32_t>(rng() % 2 ? 0x80000000u : rng());
        if (rng() % 3 == 0) v = rng() % 2 ? far : static_cast<int32_t>(rng() % 20) - 2;
      }
    }
    search.Run(tree.View(1 + rng() % 12, rng() % 2 ? 2 : 1 << 30), batch, 0, out.data());
    for (const float score : out) CHECK(std::isfinite(score) && score >= 0);
    tree.children = {0, 1 << 30, 0, 1 << 30, 0};  // 2^40 paths, were they all followed
    search.Run(tree.View(40, 1 << 30), batch, 0, out.data());
    for (float& b : tree.bias) b = rng() % 2 ? b : std::numeric_limits<float>::quiet_NaN();
    search.Run(tree.View(2, 2), batch, 0, out.data());
  }
}

}  // namespace

int main() {
  TestTrainer();
  TestBadInputIsRefused();
  TestSearch();
  std::printf("label_tree: ok\n");
}
