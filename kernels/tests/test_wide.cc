// The wide classifier against a dense matrix, and arrays that lie.
#include "sparse_jax/wide.h"

#include <cmath>
#include <cstdio>
#include <random>

#include "check.h"

namespace sj = sparse_jax;

namespace {

// Two points: {0: labels 4, 2}, {0, 1: label 2}.
void TestCoOccurring() {
  const std::vector<int64_t> fo = {0, 1, 3}, lo = {0, 2, 3};
  const std::vector<int32_t> fi = {0, 0, 1}, li = {4, 2, 2};
  std::vector<int32_t> offsets, labels;
  auto run = [&](const std::vector<int32_t>& ids, int64_t num_labels, double share) {
    return sj::CoOccurring({fo.data(), fo.size()}, {fi.data(), fi.size()}, {lo.data(), lo.size()},
                           {ids.data(), ids.size()}, 3, num_labels, share, &offsets, &labels);
  };
  CHECK(run(li, 5, 0).empty());
  CHECK((offsets == std::vector<int32_t>{0, 2, 3, 3}));
  CHECK((labels == std::vector<int32_t>{2, 4, 2}));
  CHECK(run(li, 5, 0.5).empty());
  CHECK((labels == std::vector<int32_t>{2, 2}));
  CHECK(!run(li, 4, 0).empty());
  CHECK(!run({-1, 2, 2}, 5, 0).empty());
  CHECK(!run({2, 2}, 5, 0).empty());
}

struct Model {
  std::vector<int32_t> offsets, labels;
  std::vector<float> weights, slots, bias;
  sj::WideView View(int64_t num_labels) const {
    return {offsets.data(), labels.data(), static_cast<int64_t>(offsets.size()) - 1,
            static_cast<int64_t>(labels.size()), num_labels};
  }
};

void TestRandomAgainstDense() {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t features = 1 + rng() % 9, num_labels = 1 + rng() % 70;
    Model m;
    std::vector<std::vector<float>> dense(features, std::vector<float>(num_labels, 0.0f));
    m.offsets = {0};
    for (int64_t f = 0; f < features; ++f) {
      for (int32_t l = 0; l < num_labels; ++l) {
        if (rng() % 3) continue;
        m.labels.push_back(l);
        m.weights.push_back(normal(rng));
        dense[f][l] = m.weights.back();
      }
      m.offsets.push_back(static_cast<int32_t>(m.labels.size()));
    }
    m.slots.assign(m.weights.size(), 1.0f);
    for (int64_t l = 0; l < num_labels; ++l) m.bias.push_back(-1.0f + 0.3f * normal(rng));
    std::vector<int32_t> ids, rows;
    std::vector<float> values;
    for (int32_t f = 0; f < features; ++f) {
      if (rng() % 2) continue;
      ids.push_back(f), rows.push_back(0), values.push_back(normal(rng));
    }
    const sj::WideBatch batch = {ids.data(), values.data(),
                                 sj::SortByPosition(rows.data(), ids.size(), 1)};
    const sj::WideView view = m.View(num_labels);
    std::vector<float> scores(num_labels), want = m.bias;
    for (size_t i = 0; i < ids.size(); ++i) {
      for (int64_t l = 0; l < num_labels; ++l) want[l] += values[i] * dense[ids[i]][l];
    }
    sj::WideScores(view, m.weights.data(), m.bias.data(), batch, 0, scores.data());
    for (int64_t l = 0; l < num_labels; ++l) CHECK(std::abs(scores[l] - want[l]) < 1e-4);

    const auto own = static_cast<int32_t>(rng() % num_labels);
    std::vector<int32_t> hot;
    for (int32_t l = 0; l < num_labels; ++l) {
      if (m.bias[l] > -1) hot.push_back(l);
    }
    sj::WideSums sums;
    sj::Violations found;
    for (int again = 0; again < 2; ++again) {  // the scratch must come back clean
      sj::WideViolations(view, m.weights.data(), m.bias.data(), batch, 0, {own, own}, hot, &sums,
                         &found);
      size_t next = 0;
      for (int32_t l = 0; l < num_labels; ++l) {
        const float sign = l == own ? 1.0f : -1.0f, shortfall = 1 - sign * want[l];
        if (std::abs(shortfall) < 1e-4) {
          if (next < found.size() && found.labels[next] == l) ++next;
        } else if (shortfall > 0) {
          CHECK(next < found.size() && found.labels[next] == l);
          CHECK(std::abs(found.gradients[next++] + 2 * sign * shortfall) < 1e-3);
        }
      }
      CHECK(next == found.size());
    }

    // Both ways to update a row, by walking and by searching, and any number of tasks: same bits.
    std::vector<float> w1 = m.weights, s1 = m.slots, w2 = m.weights, s2 = m.slots, scratch;
    sj::WideUpdate(view, batch, 0, {found}, 0.3f, 0, 1, &scratch, w1.data(), s1.data());
    for (int task = 0; task < 3; ++task) {
      sj::WideUpdate(view, batch, 0, {found}, 0.3f, task, 3, &scratch, w2.data(), s2.data());
    }
    CHECK(w1 == w2 && s1 == s2);
    std::vector<float> w3 = m.weights, s3 = m.slots, only;
    for (size_t v = 0; v < found.size(); ++v) {
      const sj::Violations one = {{found.labels[v]}, {found.gradients[v]}};
      only.assign(num_labels + 1, 0.0f);
      only[one.labels[0]] = one.gradients[0];
      for (size_t i = 0; i < ids.size(); ++i) {
        sj::WideUpdateRow(view, ids[i], values[i], 0.3f, one, only.data(), w3.data(), s3.data());
      }
    }
    CHECK(w1 == w3 && s1 == s3);
  }
}

void TestLies() {
  Model m;
  m.offsets = {-5, 1 << 30, 2, 0};
  m.labels = {-1, 7, 2, 1 << 30};
  m.weights = m.slots = {1, 1, 1, 1};
  m.bias = {0, 0, 0};
  const std::vector<int32_t> ids = {-1, 0, 1, 2, 3, 99}, rows(6, 0);
  const std::vector<float> values(6, 1.0f);
  const sj::WideBatch batch = {ids.data(), values.data(), sj::SortByPosition(rows.data(), 6, 1)};
  std::vector<float> scores(3), scratch;
  sj::WideScores(m.View(3), m.weights.data(), m.bias.data(), batch, 0, scores.data());
  sj::WideSums sums;
  sj::Violations found;
  sj::WideViolations(m.View(3), m.weights.data(), m.bias.data(), batch, 0, {1}, {}, &sums, &found);
  sj::WideUpdate(m.View(3), batch, 0, {found}, 0.1f, 0, 1, &scratch, m.weights.data(),
                 m.slots.data());
}

// Products of -0 leave a sum untouched, so that its label is noted again with each of them.
void TestZeros() {
  Model m;
  m.offsets = {0, 2};
  m.labels = {0, 1};
  m.weights = m.slots = {-1, -1};
  m.bias = {-2, -2};
  const std::vector<int32_t> ids(1000, 0), rows(1000, 0);
  const std::vector<float> values(1000, 0.0f);
  const sj::WideBatch batch = {ids.data(), values.data(), sj::SortByPosition(rows.data(), 1000, 1)};
  sj::WideSums sums;
  sj::Violations found;
  sj::WideViolations(m.View(2), m.weights.data(), m.bias.data(), batch, 0, {1}, {}, &sums, &found);
  CHECK(found.labels == std::vector<int32_t>{1} && found.gradients[0] == -6.0f);
}

}  // namespace

int main() {
  TestCoOccurring();
  TestRandomAgainstDense();
  TestLies();
  TestZeros();
  std::printf("wide: ok\n");
}
