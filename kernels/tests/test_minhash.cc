// Build: g++ -std=c++17 -g -fsanitize=address,undefined -Ikernels/include <this file>
#include "sparse_jax/minhash.h"

#include <memory>
#include <set>
#include <vector>

#include "check.h"

namespace {

using namespace sparse_jax;

constexpr int64_t kTables = 4, kHashes = 2;
const std::vector<uint32_t> salts{1, 2, 3, 4};
const std::vector<int32_t> strides{1, 2, 3, 4, 5, 6, 7, 8};
const MinHashParams params{{7, 9}, salts.data(), strides.data(), kTables, kHashes, 30};

// Exact-size heap copies, so that ASan sees a read one past the end.
struct Set {
  std::unique_ptr<int32_t[]> ids;
  int64_t size;

  explicit Set(const std::vector<int32_t>& from)
      : ids(new int32_t[from.size()]), size(int64_t(from.size())) {
    std::copy(from.begin(), from.end(), ids.get());
  }
};

std::vector<int32_t> CodesOf(const Set& set) {
  std::vector<int32_t> codes(kTables);
  MinHasher(params, 11).Hash(set.ids.get(), set.size, codes.data());
  return codes;
}

void TestCodes() {
  CHECK(CodesOf(Set({1, 2, 3})) == CodesOf(Set({-1, 3, 2, 2, 1, -5})));
  CHECK(CodesOf(Set({1, 2, 3})) != CodesOf(Set({1, 2, 4})));
  CHECK(CodesOf(Set({})) == CodesOf(Set({-1})));
  for (const int32_t code : CodesOf(Set({5, 6}))) CHECK(code >= 0 && code < (1 << 30));
  MinHasher hasher(params, 11);  // nothing is left of the set before
  std::vector<int32_t> codes(kTables);
  hasher.Hash(Set({1, 2, 3}).ids.get(), 3, codes.data());
  hasher.Hash(Set({8}).ids.get(), 1, codes.data());
  CHECK(codes == CodesOf(Set({8})));
}

// The number and similarity of the next set.
int64_t Add(SetMatcher* matcher, const std::vector<int32_t>& ids, double* alike) {
  const Set set(ids);
  return matcher->Add(set.ids.get(), set.size, CodesOf(set).data(), alike);
}

void TestMatches() {
  SetMatcher matcher(kTables, 0.5, 64);
  double alike = 0.0;
  CHECK(Add(&matcher, {}, &alike) == 0 && alike == 1.0);
  CHECK(Add(&matcher, {}, &alike) == 1);  // without elements: like none
  CHECK(Add(&matcher, {1, 2, 3}, &alike) == 2);
  CHECK(Add(&matcher, {1, 2, 3}, &alike) == 2 && alike == 1.0);
  CHECK(Add(&matcher, {7, 8, 9}, &alike) == 4);
}

// What is found by codes that all agree is what the sets say, across growth of the tables.
void TestSimilarity() {
  SetMatcher matcher(1, 0.8, 1 << 20);
  std::vector<std::vector<int32_t>> kept;
  std::vector<int64_t> numbers;
  uint32_t state = 1;
  for (int64_t number = 0; number < 700; ++number) {
    std::set<int32_t> ids;
    const int64_t size = 1 + number % 45;
    while (int64_t(ids.size()) < size) ids.insert(int32_t((state = Mix(state + 1)) % 50u));
    const std::vector<int32_t> sorted(ids.begin(), ids.end());
    double best = 0.0, alike = 0.0;
    int64_t expected = number;
    for (size_t i = 0; i < kept.size(); ++i) {
      int64_t both = 0;
      for (const int32_t id : kept[i]) both += int64_t(ids.count(id));
      const double found = double(both) / double(int64_t(kept[i].size()) + size - both);
      if (found >= 0.8 && found > best) {
        best = found;
        expected = numbers[i];
      }
    }
    const Set set(sorted);
    const int32_t code = 5;
    CHECK(matcher.Add(set.ids.get(), set.size, &code, &alike) == expected);
    CHECK(alike == (expected == number ? 1.0 : best));
    if (expected == number) {
      kept.push_back(sorted);
      numbers.push_back(number);
    }
  }
  CHECK(kept.size() > 300 && kept.size() < 700);
}

// A full bucket keeps the earliest; equal sets are found all the same.
void TestFullBuckets() {
  SetMatcher matcher(1, 0.5, 2);
  const int32_t code = 5;
  double alike = 0.0;
  for (int32_t i = 0; i < 4; ++i) {
    const Set set({10 * i, 10 * i + 1, 10 * i + 2});
    CHECK(matcher.Add(set.ids.get(), 3, &code, &alike) == i);
  }
  const Set early({10, 11, 12, 13}), late({30, 31, 32, 33}), equal({30, 31, 32});
  CHECK(matcher.Add(early.ids.get(), 4, &code, &alike) == 1 && alike == 0.75);
  CHECK(matcher.Add(late.ids.get(), 4, &code, &alike) == 5);
  CHECK(matcher.Add(equal.ids.get(), 3, &code, &alike) == 3 && alike == 1.0);
}

}  // namespace

int main() {
  TestCodes();
  TestMatches();
  TestSimilarity();
  TestFullBuckets();
  return 0;
}
