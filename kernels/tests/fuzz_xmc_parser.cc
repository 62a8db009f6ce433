// Fuzzing of the XMC parser, under ASan and UBSan.
//
//   fuzz_xmc_parser [ITERATIONS [SEED]]     a mutator of its own: 400,000 inputs, seed 1
//
// For libFuzzer: clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined
// -DSPARSE_JAX_LIBFUZZER -Ikernels/include <this file>
//
// Whatever the bytes: no report of the sanitizers; what is accepted is well formed; and what the
// format says has no meaning changes nothing (carriage returns, tabs, blank lines at the end).
#include "sparse_jax/xmc_parser.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "exact_parse.h"

namespace {

using sparse_jax::XmcArrays;
using sparse_jax::XmcStatus;

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void CheckSame(const XmcArrays& a, const std::string& text) {
  XmcArrays b;
  CHECK(Parse(text, &b).ok);
  CHECK(a.num_points == b.num_points && a.num_features == b.num_features);
  CHECK(a.num_labels == b.num_labels);
  CHECK(a.feature_offsets == b.feature_offsets && a.feature_ids == b.feature_ids);
  CHECK(a.label_offsets == b.label_offsets && a.label_ids == b.label_ids);
  CHECK(SameBits(a.feature_values, b.feature_values));
}

void CheckIds(const std::vector<int64_t>& offsets, std::vector<int32_t> ids, int64_t points,
              int64_t count) {
  CHECK(offsets.size() == static_cast<size_t>(points) + 1 && offsets.front() == 0);
  CHECK(offsets.back() == static_cast<int64_t>(ids.size()));
  for (size_t row = 0; row + 1 < offsets.size(); ++row) {
    CHECK(offsets[row] <= offsets[row + 1]);
    const auto begin = ids.begin() + offsets[row], end = ids.begin() + offsets[row + 1];
    std::sort(begin, end);
    CHECK(std::adjacent_find(begin, end) == end);
  }
  for (const int32_t id : ids) CHECK(id >= 0 && id < count);
}

std::string Replaced(const std::string& text, char from, const char* to) {
  std::string out;
  for (const char c : text) c == from ? out.append(to) : out.append(1, c);
  return out;
}

// Whether the input is accepted.
bool Try(const std::string& text) {
  XmcArrays out;
  const XmcStatus status = Parse(text, &out);
  if (!status.ok) {
    CHECK(status.line >= 1 && !status.message.empty() && status.message.size() < 300);
    const int64_t lines = 1 + std::count(text.begin(), text.end(), '\n');
    CHECK(status.line <= lines);
    for (const char c : status.message) CHECK(c >= 0x20 && c < 0x7f);
    return false;
  }
  CHECK(status.line == 0 && status.message.empty());
  CheckIds(out.feature_offsets, out.feature_ids, out.num_points, out.num_features);
  CheckIds(out.label_offsets, out.label_ids, out.num_points, out.num_labels);
  CHECK(out.feature_ids.size() == out.feature_values.size());
  for (const float value : out.feature_values) CHECK(std::isfinite(value));
  if (text.find('\r') == std::string::npos) CheckSame(out, Replaced(text, '\n', "\r\n"));
  CheckSame(out, Replaced(text, ' ', "\t"));
  CheckSame(out, Replaced(text, '\t', " "));
  // The last line may end in a line feed or not: an empty row needs its own.
  CheckSame(out, text + (text.back() == '\n' ? " \n\n" : "\n \n\n"));
  return true;
}

#ifndef SPARSE_JAX_LIBFUZZER

// A seeded generator: SplitMix64.
struct Random {
  uint64_t state;
  uint64_t Next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  size_t Below(size_t n) { return static_cast<size_t>(Next() % n); }
};

const std::vector<std::string> kPieces = {
    "0", "1", "9", "00", "2147483647", "2147483648", "18446744073709551616", "-1", "+1", "1e", "e9",
    "1e38", "3.4028236e38", "1e-46", ".", ".5", "5.", "nan", "-inf", "0x1", " ", "\t", "  ", "\n",
    "\r\n", "\r", ",", ":", "::", ",,", "1:1", "1:", ":1", "0,1", "\xef\xbb\xbf", "\xff",
    std::string(1, '\0'), std::string(60, '7'), std::string(400, '0'), "\n\n", "1 1 1\n"};

std::string Mutate(const std::vector<std::string>& corpus, Random* random) {
  std::string text = corpus[random->Below(corpus.size())];
  for (size_t edits = 1 + random->Below(6); edits > 0; --edits) {
    const size_t at = random->Below(text.size() + 1);
    const size_t length = std::min(text.size() - at, random->Below(12));
    switch (random->Below(8)) {
      case 0: text.insert(at, kPieces[random->Below(kPieces.size())]); break;
      case 1: text.replace(at, length, kPieces[random->Below(kPieces.size())]); break;
      case 2: text.erase(at, length); break;
      case 3: text.insert(at, text.substr(at, length)); break;
      case 4: if (at < text.size()) text[at] = static_cast<char>(random->Below(256)); break;
      case 5: if (at < text.size()) text[at] = "0123456789 ,:.\n"[random->Below(15)]; break;
      case 6: {  // the end of another one
        const std::string& other = corpus[random->Below(corpus.size())];
        text = text.substr(0, at) + other.substr(random->Below(other.size() + 1));
        break;
      }
      default: text.resize(at);
    }
  }
  return text.substr(0, 4096);
}

#endif  // SPARSE_JAX_LIBFUZZER

}  // namespace

#ifdef SPARSE_JAX_LIBFUZZER

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Try(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}

#else

int main(int argc, char** argv) {
  const long long iterations = argc > 1 ? std::atoll(argv[1]) : 400000;
  Random random{argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1};
  std::vector<std::string> corpus = {
      "4 30 20\n1,19 0:1 7:2.5\n 9:1e3 4:-0.25\n\n3 29:12345678901234567890\n", "0 0 0\n", "1 1 1\n0",
      "3 5 5\r\n0,1,2 0:1\r\n\t1:.5 2:5.\r\n4\r\n", "2 9 9\n8 8:1e-45\n7 7:3.4028235e38 0:-0\n\n\n"};
  const size_t seeds = corpus.size();
  long long accepted = 0;
  for (long long i = 0; i < iterations; ++i) {
    const std::string text = Mutate(corpus, &random);
    if (!Try(text)) continue;
    ++accepted;
    // What is accepted is worth going on from; old ones give way to new ones.
    if (corpus.size() < 500) {
      corpus.push_back(text);
    } else {
      corpus[seeds + random.Below(corpus.size() - seeds)] = text;
    }
  }
  std::printf("fuzz_xmc_parser: %lld inputs, %lld of them accepted: ok\n", iterations, accepted);
  CHECK(iterations < 1000 || accepted > iterations / 100);
}

#endif  // SPARSE_JAX_LIBFUZZER
