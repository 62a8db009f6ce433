// The kernels of a training step (active set, softmax loss, Adam) against brute force.
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "check.h"
#include "sparse_jax/active.h"
#include "sparse_jax/optimizer.h"
#include "sparse_jax/rows.h"
#include "sparse_jax/softmax.h"

namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

struct Random {
  std::mt19937 bits{5};
  int64_t Below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  float Float() { return static_cast<float>(Below(2001) - 1000) / 250.0f; }
  int32_t Id(int64_t end) {
    static const int32_t kWild[] = {INT32_MIN, -2, -1, INT32_MAX};
    return Below(6) == 0 ? kWild[Below(4)] : static_cast<int32_t>(Below(end + 1));
  }
};

void ActiveSets() {
  Random random;
  for (int round = 0; round < 500; ++round) {
    const int64_t n = 1 + random.Below(40), size = 1 + random.Below(50);
    Ints labels(static_cast<size_t>(random.Below(9))), found(static_cast<size_t>(random.Below(30)));
    Ints scores(found.size());
    for (int32_t& id : labels) id = random.Id(n);
    for (int32_t& id : found) id = random.Id(n);
    for (int32_t& score : scores) score = static_cast<int32_t>(random.Below(3));
    Ints ids(static_cast<size_t>(size), -7), positions(labels.size(), -7);
    std::vector<int8_t> sources(ids.size(), 9);
    sparse_jax::MakeActiveSet({labels.data(), found.data(), scores.data(), 1, static_cast<uint32_t>(random.bits()),
                               static_cast<int64_t>(labels.size()),
                               static_cast<int64_t>(found.size()), size, n, ids.data(),
                               sources.data(), positions.data()});
    std::set<int32_t> own;
    std::map<int32_t, int32_t> sums;
    for (int32_t id : labels) {
      if (id >= 0 && id < n) own.insert(id);
    }
    for (size_t i = 0; i < found.size(); ++i) {
      if (found[i] >= 0 && found[i] < n && !own.count(found[i])) sums[found[i]] += scores[i];
    }
    std::set<int32_t> seen;
    int32_t last = INT32_MAX;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (static_cast<int64_t>(i) >= n) {
        CHECK(ids[i] == -1 && sources[i] == -1);
        continue;
      }
      CHECK(ids[i] >= 0 && ids[i] < n && seen.insert(ids[i]).second);
      if (i < own.size()) {
        CHECK(sources[i] == 0 && ids[i] == *std::next(own.begin(), static_cast<int64_t>(i)));
      } else if (i < own.size() + sums.size()) {
        CHECK(sources[i] == 1 && sums.count(ids[i]) && sums[ids[i]] <= last);
        last = sums[ids[i]];
      } else {
        CHECK(sources[i] == 2);
      }
    }
    for (size_t i = 0; i < labels.size(); ++i) {
      const bool in = positions[i] >= 0;
      CHECK(!in || ids[static_cast<size_t>(positions[i])] == labels[i]);
      const auto rank = std::distance(own.begin(), own.find(labels[i]));
      CHECK(in == (own.count(labels[i]) && rank < size));
    }
  }
}

void SoftmaxLoss() {
  Random random;
  for (int round = 0; round < 200; ++round) {
    const int64_t rows = 1 + random.Below(5), active = 1 + random.Below(70);
    Floats logits(static_cast<size_t>(rows * active)), bias(static_cast<size_t>(active));
    for (float& x : logits) x = random.Float();
    for (float& x : bias) x = random.Below(9) == 0 ? -INFINITY : random.Float();
    bias[0] = 0;
    Ints label_rows, positions;
    for (int32_t b = 0; b < rows; ++b) {
      for (int64_t k = random.Below(4); k > 0; --k) {
        label_rows.push_back(b);
        positions.push_back(random.Id(active));
        const int32_t p = positions.back();
        if (p >= 0 && p < active && std::isinf(bias[static_cast<size_t>(p)])) positions.back() = 0;
      }
    }
    Floats grad = logits, loss(static_cast<size_t>(rows));
    Ints best(loss.size());
    std::vector<uint16_t> rounded(logits.size());
    sparse_jax::SoftmaxTask task{logits.data(), nullptr, rounded.data(), bias.data(),
                                 label_rows.data(), positions.data(), active,
                                 static_cast<int64_t>(positions.size()), loss.data(), best.data()};
    const int64_t cut = rows / 2;  // in two parts, as two threads would
    sparse_jax::SoftmaxRows(task, cut, rows);
    sparse_jax::SoftmaxRows(task, 0, cut);
    const Floats loss_of_rounded = loss;
    task.gradients = grad.data(), task.rounded = nullptr;
    sparse_jax::SoftmaxRows(task, cut, rows);
    sparse_jax::SoftmaxRows(task, 0, cut);
    CHECK(loss == loss_of_rounded);
    for (size_t i = 0; i < grad.size(); ++i) {
      const float off = sparse_jax::Widen(rounded[i]) - grad[i];
      CHECK(std::abs(off) <= std::ldexp(std::abs(grad[i]), -8));
    }
    for (int64_t b = 0; b < rows; ++b) {
      std::vector<double> z, share(static_cast<size_t>(active), 0);
      double sum = 0, labels = 0, at_labels = 0;
      for (int64_t a = 0; a < active; ++a) {
        z.push_back(double(logits[static_cast<size_t>(b * active + a)] + bias[static_cast<size_t>(a)]));
        sum += std::exp(z.back());
      }
      for (size_t e = 0; e < positions.size(); ++e) {
        if (label_rows[e] != b || positions[e] < 0 || positions[e] >= active) continue;
        ++labels;
        ++share[static_cast<size_t>(positions[e])];
        at_labels += z[static_cast<size_t>(positions[e])];
      }
      const auto most = std::max_element(z.begin(), z.end()) - z.begin();
      CHECK(best[static_cast<size_t>(b)] == most);
      const double want = labels ? std::log(sum) - at_labels / labels : 0;
      CHECK(std::abs(loss[static_cast<size_t>(b)] - want) < 1e-5 * (1 + std::abs(want)));
      for (int64_t a = 0; a < active; ++a) {
        const auto i = static_cast<size_t>(a);
        const double g = labels ? std::exp(z[i]) / sum - share[i] / labels : 0;
        CHECK(std::abs(grad[static_cast<size_t>(b * active + a)] - g) < 2e-6);
      }
    }
  }
}

void AdamAndAdd() {
  Random random;
  for (int round = 0; round < 200; ++round) {
    const int64_t n = 1 + random.Below(9), d = 1 + random.Below(40);
    Floats mu(static_cast<size_t>(n * d)), nu(mu.size()), table(mu.size());
    for (size_t i = 0; i < mu.size(); ++i) {
      mu[i] = random.Float(), nu[i] = std::abs(random.Float()), table[i] = random.Float();
    }
    Ints ids;
    for (int32_t id = 0; id < n; ++id) {
      if (random.Below(2)) ids.push_back(id);
      if (random.Below(4) == 0) ids.push_back(random.Below(2) ? INT32_MIN : static_cast<int32_t>(n));
    }
    const auto count = static_cast<int64_t>(ids.size());
    Floats grad(static_cast<size_t>(count * d));
    for (float& g : grad) g = random.Float();
    const sparse_jax::AdamScalars s{0.9f, 0.99f, 0.1f, 0.01f, 1e-6f, 0.0f, 0.5f, 0.25f, -0.1f};
    Floats m = mu, v = nu, u = grad, sums = table;
    sparse_jax::AdamRows(ids.data(), 0, count / 2, n, d, s, m.data(), v.data(), u.data());
    sparse_jax::AdamRows(ids.data(), count / 2, count, n, d, s, m.data(), v.data(), u.data());
    Floats m2 = mu, v2 = nu, moved = table, twice = table;
    sparse_jax::AdamRowsAdded(ids.data(), 0, count / 2, n, d, s, grad.data(), m2.data(), v2.data(),
                              moved.data());
    sparse_jax::AdamRowsAdded(ids.data(), count / 2, count, n, d, s, grad.data(), m2.data(),
                              v2.data(), moved.data());
    sparse_jax::AddRows(ids.data(), 0, count, n, d, u.data(), twice.data());
    CHECK(m2 == m && v2 == v && moved == twice);
    sparse_jax::AddRows(ids.data(), 0, count, n, d, grad.data(), sums.data());
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k = 0; k < d; ++k) {
        const auto at = static_cast<size_t>(i * d + k);
        const bool in = ids[static_cast<size_t>(i)] >= 0 && ids[static_cast<size_t>(i)] < n;
        if (!in) {
          CHECK(u[at] == 0);
          continue;
        }
        const auto row = static_cast<size_t>(ids[static_cast<size_t>(i)] * d + k);
        const double g = grad[at], mm = 0.1 * g + 0.9 * mu[row], vv = 0.01 * g * g + 0.99 * nu[row];
        const double want = -0.1 * (mm / 0.5) / (std::sqrt(vv / 0.25) + 1e-6);
        CHECK(std::abs(m[row] - mm) < 1e-5 && std::abs(v[row] - vv) < 1e-5);
        CHECK(std::abs(u[at] - want) < 1e-4);
        CHECK(sums[row] == table[row] + grad[at]);
        mu[row] = m[row], nu[row] = v[row], table[row] = sums[row];
      }
    }
    CHECK(m == mu && v == nu && sums == table);  // rows not named are untouched
  }
}

}  // namespace

int main() {
  ActiveSets();
  SoftmaxLoss();
  AdamAndAdd();
  std::puts("test_step: ok");
}
