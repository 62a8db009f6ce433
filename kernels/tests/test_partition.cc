// Sums of exponentials by integers, against double precision, and the plain forms against AVX2's.
#include "sparse_jax/partition.h"

#include <cstdio>
#include <random>

#include "check.h"

namespace {

using namespace sparse_jax;

double Exact(const float* query, const std::vector<float>& rows, const std::vector<float>& bias) {
  const size_t d = rows.size() / bias.size();
  double most = -1e300, total = 0;
  std::vector<double> logits(bias.size());
  for (size_t r = 0; r < bias.size(); ++r) {
    double sum = bias[r];
    for (size_t i = 0; i < d; ++i) sum += static_cast<double>(rows[r * d + i]) * query[i];
    logits[r] = sum;
    most = std::max(most, sum);
  }
  for (double x : logits) total += std::exp(x - most);
  return most + std::log(total);
}

void NearTheExact(int64_t n, int64_t count, int64_t d, std::mt19937* bits) {
  std::normal_distribution<float> normal;
  std::vector<float> queries(static_cast<size_t>(n * d)), rows(static_cast<size_t>(count * d)),
      bias(static_cast<size_t>(count)), out(static_cast<size_t>(n));
  for (float& x : queries) x = normal(*bits);
  for (float& x : rows) x = normal(*bits) / std::sqrt(static_cast<float>(d));
  for (float& x : bias) x = normal(*bits);
  IntegerRows table(rows.data(), bias.data(), count, d);
  for (int64_t panel = 0; panel < table.panels; ++panel) table.Fill(panel);
  LogPartitions(table, queries.data(), n, out.data());
  for (int64_t j = 0; j < n; ++j) {
    CHECK(std::fabs(out[static_cast<size_t>(j)] - Exact(queries.data() + j * d, rows, bias)) < 2e-4);
  }
}

// Vectors that lie along one coordinate, or evenly in all, are the longest as integers.
void SumsStayInside() {
  for (const int64_t d : {1, 2, 128, 4096}) {
    for (const bool even : {true, false}) {
      std::vector<float> x(static_cast<size_t>(d), even ? 3.0f : 0.0f);
      x[0] = 3.0f;
      std::vector<int16_t> q(static_cast<size_t>(d)), w(q);
      ToIntegers(x.data(), d, IntegerScale(x.data(), d, kQueryLength), q.data());
      ToIntegers(x.data(), d, IntegerScale(x.data(), d, kRowLength), w.data());
      int64_t sum = 0;
      for (size_t i = 0; i < q.size(); ++i) sum += static_cast<int64_t>(q[i]) * w[i];
      CHECK(q[0] > 0 && w[0] > 0 && sum < int64_t{1} << 31);
    }
  }
}

void ScalesOfOddVectors() {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x(20, 0.0f);
  CHECK(IntegerScale(x.data(), 20, kQueryLength) == 0);
  for (const float odd : {inf, -inf, std::nanf("")}) {
    for (const size_t at : {size_t{0}, size_t{19}}) {
      std::vector<float> y = x;
      y[at] = odd;
      CHECK(std::isnan(IntegerScale(y.data(), 20, kQueryLength)));
    }
  }
  for (const float size : {1e-37f, 1e-20f, 1e20f, 3e38f}) {
    x[3] = size;
    const float scale = IntegerScale(x.data(), 20, kQueryLength);
    CHECK(scale > 0 && scale * size < 32768);
  }
}

void PowersOfTwo() {
  alignas(64) float logits[kPanelRows];
  std::fill(logits, logits + kPanelRows, -std::numeric_limits<float>::infinity());
  for (int step = -900; step <= 0; ++step) {
    logits[5] = static_cast<float>(step) / 10;
    const double want = std::exp2(static_cast<double>(logits[5]));
    CHECK(std::fabs(PanelSum(logits, 0) / want - 1) < 3e-7);
    CHECK(PanelAbove(logits, logits[5] - 1) == uint64_t{1} << 5);
  }
  logits[60] = std::nanf("");
  CHECK(std::isnan(PanelSum(logits, 0)));
}

}  // namespace

int main() {
  std::mt19937 bits(5);
  for (const int64_t d : {1, 2, 5, 16, 33, 128}) {
    for (const int64_t count : {1, 15, 64, 65, 300}) {
      for (const int64_t n : {1, 6, 7, 96}) NearTheExact(n, count, d, &bits);
    }
  }
  SumsStayInside();
  ScalesOfOddVectors();
  PowersOfTwo();
  std::puts("partition: ok");
  return 0;
}
