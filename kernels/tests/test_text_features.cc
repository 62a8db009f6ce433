// Build: g++ -std=c++17 -g -fsanitize=address,undefined -Ikernels/include <this file> -lpthread
#include "sparse_jax/text_counts.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "check.h"

namespace {

using namespace sparse_jax;

// Exact-size heap copies, so that ASan sees a read one past the end.
struct Texts {
  std::vector<std::unique_ptr<char[]>> held;
  std::vector<Text> views;

  explicit Texts(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      held.emplace_back(new char[text.size()]);
      std::copy(text.begin(), text.end(), held.back().get());
      views.push_back({held.back().get(), int64_t(text.size())});
    }
  }
};

// A text's features by name.
std::map<std::string, int> Names(const std::string& given, const TextOptions& options) {
  const Texts texts({given});
  text::Reader reader(options);
  std::map<std::string, int> found;
  for (const text::Feature& feature : reader.Read(texts.views[0])) {
    std::string name;
    reader.AppendName(feature, &name);
    ++found[name];
  }
  return found;
}

void TestWords() {
  const TextOptions words{true, false, 0, 0};
  using Map = std::map<std::string, int>;
  CHECK((Names("Red-apple, RED  a1\n", words) == Map{{"red", 2}, {"apple", 1}, {"a1", 1}}));
  CHECK((Names("", words) == Map{}) && (Names("+# _!", words) == Map{}));
  CHECK((Names("C++11, C# and a+b #1 page#p c++", words) ==
         Map{{"c++", 2}, {"11", 1}, {"c#", 1}, {"and", 1}, {"a", 1}, {"b", 1}, {"1", 1},
             {"page", 1}, {"p", 1}}));
  CHECK((Names("c#d ++c+++ c##", words) == Map{{"c", 1}, {"d", 1}, {"c++", 1}, {"c#", 1}}));
  CHECK((Names("\xce\xbb x", words) == Map{{"\xce\xbb", 1}, {"x", 1}}));
}

void TestPairsAndGrams() {
  using Map = std::map<std::string, int>;
  CHECK((Names("a,  bb a bb", {false, true, 0, 0}) == Map{{"a bb", 2}, {"bb a", 1}}));
  CHECK((Names("ab", {false, false, 3, 5}) == Map{{"*_ab", 1}, {"*ab_", 1}, {"*_ab_", 1}}));
  CHECK((Names("a", {false, false, 4, 5}) == Map{{"*_a_", 1}}));
  CHECK((Names("\xce\xbb", {false, false, 2, 2}) == Map{{"*_\xce\xbb", 1}, {"*\xce\xbb_", 1}}));
}

void TestHashes() {
  // Length and every byte count, on both sides of eight bytes.
  std::vector<uint64_t> seen;
  for (const char* s : {"", "a", "b", "aa", "abcdefgh", "abcdefgi", "abcdefghi", "abcdefghj"}) {
    const std::string padded = std::string(s) + "????????";
    seen.push_back(text::HashBytes(padded.data(), int64_t(std::string(s).size())));
  }
  std::sort(seen.begin(), seen.end());
  CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

void TestThreads() {
  std::vector<std::string> given;
  for (int i = 0; i < 97; ++i) {
    std::string text;
    for (int j = 0; j < i % 13; ++j) text += "w" + std::to_string(i * j % 31) + " ";
    given.push_back(text);
  }
  const Texts texts(given);
  const TextOptions options{true, true, 2, 3};
  TextVocabulary first;
  const TextCounts one = text::CountAndKeep(texts.views, options, 2, 60, 1, &first);
  CHECK(one.offsets.size() == 98 && first.keys.size() == 60);
  for (size_t i = 1; i < first.frequencies.size(); ++i) {
    CHECK(first.frequencies[i - 1] >= first.frequencies[i]);
  }
  for (const int64_t threads : {2, 5, 200}) {
    TextVocabulary other;
    const TextCounts many = text::CountAndKeep(texts.views, options, 2, 60, threads, &other);
    CHECK(many.offsets == one.offsets && many.ids == one.ids && many.counts == one.counts);
    CHECK(other.keys == first.keys && other.names == first.names);
    CHECK(other.name_offsets == first.name_offsets && other.frequencies == first.frequencies);
    const auto by_key = [](uint64_t key) { return int64_t(key % 50) - 3; };
    const TextCounts a = text::CountBy(texts.views, options, 1, by_key);
    const TextCounts b = text::CountBy(texts.views, options, threads, by_key);
    CHECK(a.offsets == b.offsets && a.ids == b.ids && a.counts == b.counts);
  }
  TextVocabulary none;
  const TextCounts empty = text::CountAndKeep({}, options, 1, 9, 3, &none);
  CHECK(empty.offsets == std::vector<int64_t>{0} && none.keys.empty());
}

}  // namespace

int main() {
  TestWords();
  TestPairsAndGrams();
  TestHashes();
  TestThreads();
  return 0;
}
