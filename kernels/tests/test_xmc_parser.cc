// Build: g++ -std=c++17 -g -fsanitize=address,undefined -Ikernels/include <this file>
#include "sparse_jax/xmc_parser.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "exact_parse.h"

namespace {

using sparse_jax::XmcArrays;
using sparse_jax::XmcStatus;

void ExpectFailure(const std::string& text, int64_t line, const std::string& part) {
  XmcArrays out;
  const XmcStatus status = Parse(text, &out);
  if (status.ok || status.line != line || status.message.find(part) == std::string::npos) {
    std::fprintf(stderr, "for <%s>\nwanted line %lld: %s\ngot line %lld: %s\n", text.c_str(),
                 static_cast<long long>(line), part.c_str(),
                 static_cast<long long>(status.line), status.message.c_str());
    std::exit(1);
  }
}

float ValueOf(const std::string& text) {
  XmcArrays out;
  const XmcStatus status = Parse("1 1 1\n0 0:" + text, &out);
  if (!status.ok) {
    std::fprintf(stderr, "%s: %s\n", text.c_str(), status.message.c_str());
    std::exit(1);
  }
  return out.feature_values.at(0);
}

void TestRows() {
  XmcArrays out;
  const std::string text =
      "6 10 4\r\n1,3 0:1 7:2.5\r\n 9:1\n2:-3\t4:.5  \n0\n\n\t 1:1e1\n\n  \n";
  const XmcStatus status = Parse(text, &out);
  CHECK(status.ok && status.line == 0 && status.message.empty());
  CHECK(out.num_points == 6 && out.num_features == 10 && out.num_labels == 4);
  CHECK((out.feature_offsets == std::vector<int64_t>{0, 2, 3, 5, 5, 5, 6}));
  CHECK((out.feature_ids == std::vector<int32_t>{0, 7, 9, 2, 4, 1}));
  CHECK((out.feature_values == std::vector<float>{1, 2.5, 1, -3, 0.5, 10}));
  CHECK((out.label_offsets == std::vector<int64_t>{0, 2, 2, 2, 3, 3, 3}));
  CHECK((out.label_ids == std::vector<int32_t>{1, 3, 0}));
  CHECK(Parse("0 0 0", &out).ok && out.feature_offsets.size() == 1);
}

void TestNumbers() {
  CHECK(ValueOf("0") == 0 && !std::signbit(ValueOf("0.0")) && std::signbit(ValueOf("-0")));
  CHECK(ValueOf("+3") == 3 && ValueOf("1.") == 1 && ValueOf("-.25e+1") == -2.5f);
  CHECK(ValueOf("0.1") == 0.1f && ValueOf("16777217") == 16777216.0f);
  CHECK(ValueOf("3.4028235e38") == std::numeric_limits<float>::max());
  CHECK(ValueOf("3.40282356e38") == std::numeric_limits<float>::max());
  CHECK(ValueOf("1e-45") == std::numeric_limits<float>::denorm_min());
  CHECK(ValueOf("1e-400") == 0 && ValueOf("0e999999999999999999999") == 0);
  CHECK(ValueOf("1e-99999999999999999999999") == 0);
  CHECK(ValueOf("0." + std::string(500, '0') + "1e501") == 1);
  CHECK(ValueOf("1" + std::string(500, '0') + "e-500") == 1);
  CHECK(ValueOf(std::string(100, '0') + "7") == 7);
  // Against the C library, which rounds correctly: digits chosen so that all paths are taken.
  uint64_t state = 1;
  for (int i = 0; i < 20000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const int digits = 1 + static_cast<int>(state >> 60);
    const int exponent = static_cast<int>((state >> 32) % 70) - 45;
    char text[64];
    std::snprintf(text, sizeof text, "%.*fe%d",
                  digits, static_cast<double>(state >> 11) / 9007199254740992.0, exponent);
    CHECK(ValueOf(text) == static_cast<float>(std::strtod(text, nullptr)));
  }
}

void TestFailures() {
  ExpectFailure("", 1, "the file is empty");
  ExpectFailure("\n", 1, "three whole numbers, points features labels, not ''");
  ExpectFailure("1 2\n", 1, "three whole numbers");
  ExpectFailure("1 2 3 4\n", 1, "three whole numbers");
  ExpectFailure("1 -2 3\n", 1, "three whole numbers");
  ExpectFailure("1 2 4294967296\n", 1, "'4294967296' exceeds 2147483647");
  ExpectFailure("\xef\xbb\xbf" "1 2 3\n", 1, "not ASCII text in '\\xef\\xbb\\xbf1 2 3'");
  ExpectFailure("2 5 5\n0 1:1\n", 2, "the file ends after 1 rows, but the header promises 2");
  ExpectFailure("2147483647 5 5\n", 1, "ends after 0 rows");
  ExpectFailure("1 5 5\n0 1:1\n\n0 1:1\n", 4, "more rows follow than the 1");
  ExpectFailure("1 5 5\n5 1:1\n", 2, "label id '5' is out of range: the header promises 5 labels");
  ExpectFailure("1 5 5\n0 5:1\n", 2, "feature id '5' is out of range");
  ExpectFailure("1 5 5\n0 99999999999999999999999:1\n", 2, "out of range");
  ExpectFailure("1 5 5\n-1 1:1\n", 2, "label id '-1' is negative");
  ExpectFailure("1 5 5\n0 -1:1\n", 2, "feature id '-1' is negative");
  ExpectFailure("1 5 5\n1, 1:1\n", 2, "label id '' is not a whole number");
  ExpectFailure("1 5 5\n1 3 1:1\n", 2, "expected feature:value, not '3'");
  ExpectFailure("1 5 5\n 3\n", 2, "expected feature:value, not '3'");
  ExpectFailure("1 5 5\n1 3:\n", 2, "feature value '' is not a number");
  for (const char* bad : {"1x", "e5", ".", "1e", "1e+", "0x1", "1_0", "1:2", "--1", "1,5"}) {
    ExpectFailure(std::string("1 5 5\n1 3:") + bad, 2, "is not a number");
  }
  for (const char* bad : {"nan", "-NaN", "inf", "+Infinity"}) {
    ExpectFailure(std::string("1 5 5\n1 3:") + bad, 2, "is not finite");
  }
  for (const char* bad : {"3.4028236e38", "1e39", "-1e400", "1e99999999999999999999"}) {
    ExpectFailure(std::string("1 5 5\n1 3:") + bad, 2, "is too large for float32");
  }
  ExpectFailure("1 5 5\n3,1,3 1:1\n", 2, "label id 3 appears more than once");
  ExpectFailure("1 5 5\n3 4:1 2:1 4:1 2:1\n", 2, "feature id 2 appears more than once");
  ExpectFailure("1 5 5\n1 2:1\xff\n", 2, "not ASCII text in '1\\xff'");
  ExpectFailure(std::string("1 5 5\n1 2:1\0\n", 13), 2, "'1\\x00' is not a number");
  ExpectFailure("1 5 5\n1 2:" + std::string(41, 'x'), 2, "'" + std::string(40, 'x') + "...'");
}

// Whatever the bytes, the parser ends without a report of the sanitizers, and what it accepts is
// well formed.
void TestMutations() {
  const std::string seed = "4 30 20\n1,19 0:1 7:2.5\n 9:1e3 4:-0.25\n\n3 29:12345678901234567890\n";
  const std::string alphabet("0123456789 \t\r\n,:.-+eEnaif\xff\0", 27);
  uint64_t state = 42;
  const auto next = [&state](size_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<size_t>((state >> 33) % below);
  };
  int accepted = 0;
  for (int i = 0; i < 40000; ++i) {
    std::string text = seed;
    for (size_t edits = 1 + next(4); edits > 0 && !text.empty(); --edits) {
      const size_t at = next(text.size());
      switch (next(4)) {
        case 0: text[at] = alphabet[next(alphabet.size())]; break;
        case 1: text.insert(at, 1, alphabet[next(alphabet.size())]); break;
        case 2: text.erase(at, 1 + next(5)); break;
        default: text.resize(at);
      }
    }
    XmcArrays out;
    const XmcStatus status = Parse(text, &out);
    if (!status.ok) {
      CHECK(status.line >= 1 && !status.message.empty());
      continue;
    }
    ++accepted;
    CHECK(out.feature_offsets.size() == static_cast<size_t>(out.num_points) + 1);
    CHECK(out.label_offsets.size() == static_cast<size_t>(out.num_points) + 1);
    CHECK(out.feature_offsets.back() == static_cast<int64_t>(out.feature_ids.size()));
    CHECK(out.label_offsets.back() == static_cast<int64_t>(out.label_ids.size()));
    CHECK(out.feature_ids.size() == out.feature_values.size());
    for (const int32_t id : out.feature_ids) CHECK(id >= 0 && id < out.num_features);
    for (const int32_t id : out.label_ids) CHECK(id >= 0 && id < out.num_labels);
    for (const float value : out.feature_values) CHECK(std::isfinite(value));
  }
  CHECK(accepted > 1000);
}

}  // namespace

int main() {
  TestRows();
  TestNumbers();
  TestFailures();
  TestMutations();
  std::puts("test_xmc_parser: ok");
}
