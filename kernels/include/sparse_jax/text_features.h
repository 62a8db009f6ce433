// Texts to counts of their features: words, pairs of neighbouring words, character n-grams within
// words. A feature is known by a 64-bit hash of its kind and bytes; ops/text_features.py says the
// same in NumPy, bit for bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "sparse_jax/common.h"

namespace sparse_jax {

// One text in UTF-8, of less than 2^30 bytes: ASCII is folded here, all else is normalized already.
struct Text {
  const char* data;
  int64_t size;
};

struct TextOptions {
  bool words;
  bool pairs;
  int64_t low;   // characters of the shortest n-grams; 0: none
  int64_t high;  // of the longest
};

// Counts of distinct features of each text; ids ascend within a text.
struct TextCounts {
  std::vector<int64_t> offsets;
  std::vector<int32_t> ids;
  std::vector<float> counts;
};

// The features that enough texts hold, most frequent first, equal ones by name.
struct TextVocabulary {
  std::vector<uint64_t> keys;
  std::vector<int64_t> frequencies;  // texts that hold them
  std::string names;                 // one after the other
  std::vector<int64_t> name_offsets;
};

// Both in handlers/text_features.cc, compiled for speed. The same on any number of threads.
TextCounts HashTexts(const std::vector<Text>& texts, const TextOptions& options,
                     int64_t num_features, int64_t threads);
TextCounts CountKnown(const std::vector<Text>& texts, const TextOptions& options,
                      const uint64_t* keys, int64_t num_keys, int64_t threads);
TextCounts FitVocabulary(const std::vector<Text>& texts, const TextOptions& options,
                         int64_t min_count, int64_t max_features, int64_t threads,
                         TextVocabulary* vocabulary);

namespace text {

// What a hash is salted with.
enum Kind : uint64_t {
  kWord = 0,
  kGram = 0xD1B54A32D192ED03u,
  kPair = 0xA36A9465A325DA06u,
};

// The finalizer of SplitMix64.
inline uint64_t Mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Eight bytes, the first the lowest.
inline uint64_t Load8(const char* at) {
  uint64_t found;
  std::memcpy(&found, at, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  found = __builtin_bswap64(found);
#endif
  return found;
}

// A hash of some bytes, behind which another 7 can be read. It is mixed by those who use it.
inline uint64_t HashBytes(const char* at, int64_t size) {
  uint64_t hash = uint64_t(size) * 0x9E3779B97F4A7C15u;
  for (; size > 8; size -= 8, at += 8) {
    hash = (hash ^ Load8(at)) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  const uint64_t mask = ~uint64_t(0) >> (64 - 8 * (size ? size : 8));
  hash = (hash ^ (size ? Load8(at) & mask : 0)) * 0xD6E8FEB86659FD93u;
  return hash ^ (hash >> 32);
}

// The place of the lowest byte that isn't zero.
inline int64_t LowestByte(uint64_t bytes) {
#if defined(__GNUC__)
  return __builtin_ctzll(bytes) / 8;
#else
  int64_t n = 0;
  for (; !(bytes & 0xFF); bytes >>= 8) ++n;
  return n;
#endif
}

constexpr uint64_t kOnes = 0x0101010101010101u;

// Spaces at the beginning, 8 at most.
inline int64_t Spaces(const char* at) {
  const uint64_t x = Load8(at) ^ (kOnes * ' ');
  return x ? LowestByte(x) : 8;
}

// Bytes before the first space; one must come.
inline int64_t ToSpace(const char* at) {
  for (int64_t i = 0;; i += 8) {
    const uint64_t x = Load8(at + i) ^ (kOnes * ' ');
    const uint64_t zeros = (x - kOnes) & ~x & (kOnes * 0x80);
    if (zeros) return i + LowestByte(zeros);
  }
}

// What a byte becomes: small letters, digits, + and # stay, other ASCII parts words.
inline char Fold(char c) {
  const uint8_t u = uint8_t(c);
  const uint8_t low = uint8_t(u | 0x20);
  const bool letter = uint8_t(low - 'a') < 26;
  const bool kept = (uint8_t(u - '0') < 10) | (u == '+') | (u == '#') | (u >= 0x80);
  return letter ? char(low) : kept ? c : ' ';
}

inline bool IsLetter(char c) { return c >= 'a' && c <= 'z'; }

// What a text has among its bytes.
struct Signs {
  bool high;   // some that aren't ASCII
  bool named;  // + or #
};

// Folds bytes one by one; without a branch, so that it is a loop over vectors.
inline Signs FoldInto(const char* __restrict in, int64_t size, char* __restrict out) {
  uint8_t high = 0, named = 0;
  for (int64_t i = 0; i < size; ++i) {
    const char c = Fold(in[i]);
    out[i] = c;
    high |= uint8_t(c);
    named |= uint8_t((c == '+') | (c == '#'));
  }
  return {high >= 0x80, named != 0};
}

// Bytes before the first + or #, 8 at most.
inline int64_t ToSign(const char* at) {
  const uint64_t plus = Load8(at) ^ (kOnes * '+'), sharp = Load8(at) ^ (kOnes * '#');
  const uint64_t found =
      (((plus - kOnes) & ~plus) | ((sharp - kOnes) & ~sharp)) & (kOnes * 0x80);
  return found ? LowestByte(found) : 8;
}

// Leaves + and # only in names such as c++ and c#: one letter, and no other behind. A space comes
// behind a name: where that takes a place of its own, names are cut in `other`.
inline void KeepNames(std::string* buffer, std::string* other) {
  char* const data = &(*buffer)[0];
  const size_t n = buffer->size() - 8;  // spaces end it
  std::vector<size_t> cuts;
  for (size_t i = 1; i < n;) {
    if (const int64_t before = ToSign(data + i)) {
      i += size_t(before);
      continue;
    }
    const bool alone = i >= 2 && IsLetter(data[i - 1]) &&
                       (data[i - 2] == ' ' || data[i - 2] == '+' || data[i - 2] == '#');
    const size_t end = data[i] == '#' ? i + 1 : data[i + 1] == '+' ? i + 2 : 0;
    if (!alone || !end || IsLetter(data[end])) {
      data[i++] = ' ';
      continue;
    }
    i = end;
    if (data[i] != ' ' && data[i] != '+' && data[i] != '#') cuts.push_back(i);
    else data[i] = ' ';
  }
  if (cuts.empty()) return;
  other->clear();
  size_t first = 0;
  for (const size_t cut : cuts) {
    other->append(*buffer, first, cut - first);
    other->push_back(' ');
    first = cut;
  }
  other->append(*buffer, first, std::string::npos);
  buffer->swap(*other);
}

// A feature of a text and where it stands in the reader's buffer; a pair reaches from its first
// word to its second.
struct Feature {
  uint64_t key;
  uint32_t begin;
  uint32_t size : 30;
  uint32_t kind : 2;  // 0 word, 1 n-gram, 2 pair
};

// Reads one text after the other.
class Reader {
 public:
  explicit Reader(const TextOptions& options) : options_(options) {}

  // A text's features, repeats included, until the next call.
  const std::vector<Feature>& Read(const Text& text) {
    features_.clear();
    FoldText(text);
    const char* const data = buffer_.data();
    const int64_t size = int64_t(buffer_.size()) - kPadding;
    int64_t before = 0;  // where the word before begins
    uint64_t before_hash = 0;
    for (int64_t at = 1; at < size;) {
      if (const int64_t spaces = Spaces(data + at)) {
        at += spaces;
        continue;
      }
      const int64_t length = ToSpace(data + at);
      const uint64_t hash = HashBytes(data + at, length);
      if (options_.words) Add(hash + kWord, at, length, 0);
      if (options_.pairs && before) {
        Add(before_hash * 3 + Mix64(hash) + kPair, before, at + length - before, 2);
      }
      if (options_.low) AddGrams(at - 1, length + 2);
      before = at;
      before_hash = hash;
      at += length;
    }
    return features_;
  }

  // "red", "red apple", and "*_re" for an n-gram at the beginning of a word.
  void AppendName(const Feature& feature, std::string* out) const {
    const char* const begin = buffer_.data() + feature.begin;
    if (feature.kind == 1) out->push_back('*');
    for (const char* c = begin; c < begin + feature.size; ++c) {
      if (*c != ' ') {
        out->push_back(*c);
      } else if (feature.kind == 1) {
        out->push_back('_');
      } else if (out->back() != ' ') {
        out->push_back(' ');
      }
    }
  }

 private:
  static constexpr int64_t kPadding = 8;  // so that eight bytes can be read anywhere

  void Add(uint64_t hash, int64_t begin, int64_t size, uint32_t kind) {
    Feature feature;
    feature.key = Mix64(hash);
    feature.begin = uint32_t(begin);
    feature.size = uint32_t(size) & 0x3FFFFFFF;
    feature.kind = kind;
    features_.push_back(feature);
  }

  // The words of a text in the buffer: parted by spaces, with one before and some behind.
  void FoldText(const Text& text) {
    const int64_t size = text.size;
    const char* const in = text.data;
    buffer_.resize(size_t(size + 2 + kPadding));
    char* const out = &buffer_[1];
    out[-1] = ' ';
    std::memset(out + size, ' ', 1 + kPadding);
    const Signs signs = FoldInto(in, size, out);
    ascii_ = !signs.high;
    if (signs.named) KeepNames(&buffer_, &other_);
  }

  // N-grams of a word with the spaces around it.
  void AddGrams(int64_t begin, int64_t bytes) {
    const char* const data = buffer_.data() + begin;
    starts_.clear();
    for (int64_t i = 0; i < bytes; ++i) {
      if (ascii_ || (uint8_t(data[i]) & 0xC0) != 0x80) starts_.push_back(i);
    }
    const int64_t chars = int64_t(starts_.size());
    starts_.push_back(bytes);
    for (int64_t n = options_.low; n <= options_.high; ++n) {
      const int64_t last = std::max<int64_t>(chars - n, 0);
      for (int64_t i = 0; i <= last; ++i) {
        const int64_t l = starts_[size_t(i)], r = starts_[size_t(std::min(i + n, chars))];
        Add(HashBytes(data + l, r - l) + kGram, begin + l, r - l, 1);
      }
      if (last == 0) break;  // a longer one would be the same
    }
  }

  TextOptions options_;
  bool ascii_ = true;
  std::string buffer_, other_;
  std::vector<int64_t> starts_;
  std::vector<Feature> features_;
};

// Numbers of keys, by open addressing: keys are mixed already.
class KeyTable {
 public:
  explicit KeyTable(int64_t expected = 0) {
    size_t size = 1024;
    while (2 * int64_t(size) < 3 * expected) size *= 2;
    slots_.assign(size, Slot{0, -1});
  }

  // The number of a key, or -1.
  int32_t Find(uint64_t key) const { return slots_[At(key)].number; }

  void PrefetchAt(uint64_t key) const {
    Prefetch(&slots_[size_t(key) & (slots_.size() - 1)], 1);
  }

  // The number of a key; a new one gets the next.
  int32_t FindOrAdd(uint64_t key) {
    size_t at = At(key);
    if (slots_[at].number >= 0) return slots_[at].number;
    if (3 * size_t(count_) >= 2 * slots_.size()) {
      Grow();
      at = At(key);
    }
    slots_[at] = {key, count_};
    return count_++;
  }

  int32_t count() const { return count_; }

 private:
  struct Slot {
    uint64_t key;
    int32_t number;
  };

  size_t At(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t at = size_t(key) & mask;
    while (slots_[at].number >= 0 && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }

  void Grow() {
    std::vector<Slot> old(2 * slots_.size(), Slot{0, -1});
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.number >= 0) slots_[At(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  int32_t count_ = 0;
};

}  // namespace text
}  // namespace sparse_jax
