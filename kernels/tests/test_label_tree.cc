// The label tree: training, and arguments that do not fit.
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

}  // namespace

int main() {
  TestTrainer();
  TestBadInputIsRefused();
  std::printf("label_tree: ok\n");
}
