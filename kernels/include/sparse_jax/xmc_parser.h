// Reader for the Extreme Classification Repository text format, over a raw byte span.
//
//   file   := header rows
//   header := points features labels            (whole numbers)
//   row    := [label{,label}] {feature:value}   (separated by spaces or tabs)
//
// A row that begins with a space, a tab or directly with a feature has no labels; an empty line
// is a point with neither. The last newline is optional, "\r\n" is accepted, and blank lines after
// the last point are ignored. Ids start at 0 and keep the order of the file; an id that comes
// twice in a row is an error. Values are decimal numbers, rounded to double and then to float.
//
// sparse_jax/data/xmc.py holds the reference of this parser in Python: both give the same arrays
// and word for word the same messages.
#ifndef SPARSE_JAX_XMC_PARSER_H_
#define SPARSE_JAX_XMC_PARSER_H_

#include <algorithm>
#include <cfloat>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#if !defined(__cpp_lib_to_chars)
#include <locale>
#include <sstream>
#endif

namespace sparse_jax {

struct XmcArrays {
  std::vector<int64_t> feature_offsets;  // [num_points + 1]
  std::vector<int32_t> feature_ids;      // [feature_offsets.back()]
  std::vector<float> feature_values;     // as feature_ids
  std::vector<int64_t> label_offsets;    // [num_points + 1]
  std::vector<int32_t> label_ids;        // [label_offsets.back()]
  int64_t num_points = 0;
  int64_t num_features = 0;
  int64_t num_labels = 0;
};

struct XmcStatus {
  bool ok = true;
  int64_t line = 0;     // from 1; 0 when ok
  std::string message;  // empty when ok
};

namespace xmc_internal {

constexpr int64_t kMaxId = 2147483647;
// Halfway between the largest float and 2^128: from here on, rounding gives infinity.
constexpr double kFloatOverflow = 340282356779733661637539395458142568448.0;

struct Span {
  const char* begin;
  const char* end;
  size_t size() const { return static_cast<size_t>(end - begin); }
};

inline bool IsSpace(char c) { return c == ' ' || c == '\t'; }
inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }

inline const char* SkipSpaces(const char* p, const char* end) {
  while (p != end && IsSpace(*p)) ++p;
  return p;
}

inline const char* FindSpace(const char* p, const char* end) {
  while (p != end && !IsSpace(*p)) ++p;
  return p;
}

inline const char* FindChar(const char* p, const char* end, char c) {
  while (p != end && *p != c) ++p;
  return p;
}

// Takes the next line off `*rest`, without its "\n" or "\r\n".
inline Span TakeLine(Span* rest) {
  Span line = *rest;
  const void* newline =
      line.size() == 0 ? nullptr : std::memchr(line.begin, '\n', line.size());
  if (newline == nullptr) {
    rest->begin = rest->end;
  } else {
    line.end = static_cast<const char*>(newline);
    rest->begin = line.end + 1;
  }
  if (line.begin != line.end && line.end[-1] == '\r') --line.end;
  return line;
}

// The token in quotes for a message: printable, and never longer than 40 bytes of the file.
inline std::string Quote(Span token) {
  constexpr size_t kLimit = 40;
  static const char* const kHex = "0123456789abcdef";
  std::string out = "'";
  for (const char* p = token.begin; p != token.end; ++p) {
    if (static_cast<size_t>(p - token.begin) == kLimit) return out + "...'";
    const unsigned char c = static_cast<unsigned char>(*p);
    if (c < 0x20 || c > 0x7e || c == '\\') {
      out += "\\x";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else {
      out += *p;
    }
  }
  return out + "'";
}

inline XmcStatus Fail(int64_t line, std::string message) {
  return XmcStatus{false, line, std::move(message)};
}

// A complaint about one token. Bytes beyond ASCII (so invalid UTF-8 too) have their own message.
inline XmcStatus FailToken(int64_t line, const char* before, Span token, const std::string& after) {
  for (const char* p = token.begin; p != token.end; ++p) {
    if (static_cast<unsigned char>(*p) > 0x7f) {
      return Fail(line, "a byte that is not ASCII text in " + Quote(token));
    }
  }
  return Fail(line, before + Quote(token) + after);
}

// True for one or more digits. Values above `kMaxId` saturate at `kMaxId + 1`.
inline bool ParseWhole(Span token, int64_t* out) {
  if (token.begin == token.end) return false;
  int64_t value = 0;
  for (const char* p = token.begin; p != token.end; ++p) {
    if (!IsDigit(*p)) return false;
    value = value * 10 + (*p - '0');
    if (value > kMaxId) value = kMaxId + 1;
  }
  *out = value;
  return true;
}

inline bool IsNegativeWhole(Span token) {
  int64_t ignored;
  return token.begin != token.end && *token.begin == '-' &&
         ParseWhole(Span{token.begin + 1, token.end}, &ignored);
}

inline XmcStatus ParseId(Span token, const char* kind, int64_t count, int64_t line, int32_t* out) {
  int64_t value = 0;
  if (ParseWhole(token, &value) && value < count) {
    *out = static_cast<int32_t>(value);
    return XmcStatus{};
  }
  const std::string name = std::string(kind) + " id ";
  if (IsNegativeWhole(token)) return FailToken(line, name.c_str(), token, " is negative");
  if (!ParseWhole(token, &value)) {
    return FailToken(line, name.c_str(), token, " is not a whole number");
  }
  return FailToken(line, name.c_str(), token,
                   " is out of range: the header promises " + std::to_string(count) + " " + kind +
                       "s, and ids start at 0");
}

enum class Number { kOk, kMalformed, kNotFinite, kTooLarge };

inline bool EqualsIgnoreCase(Span token, const char* lower) {
  const char* p = token.begin;
  for (; p != token.end && *lower != '\0'; ++p, ++lower) {
    const char c = (*p >= 'A' && *p <= 'Z') ? static_cast<char>(*p - 'A' + 'a') : *p;
    if (c != *lower) return false;
  }
  return p == token.end && *lower == '\0';
}

// Correctly rounded double of a well-formed unsigned number whose result is finite and normal.
inline double SlowDouble(Span token) {
  double value = 0;
#if defined(__cpp_lib_to_chars)
  std::from_chars(token.begin, token.end, value);
#else
  // libc++ long lacked from_chars for floating point. The classic locale keeps '.' the point.
  std::istringstream stream(std::string(token.begin, token.end));
  stream.imbue(std::locale::classic());
  stream >> value;
#endif
  return value;
}

inline Number ParseValue(Span token, float* out) {
  static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  constexpr uint64_t kRoom = 1000000000000000000u;  // one more digit still fits 64 bits
  constexpr int64_t kExponentLimit = 1000000000000000;
  const char* p = token.begin;
  bool negative = false;
  if (p != token.end && (*p == '+' || *p == '-')) negative = *p++ == '-';
  const Span digits{p, token.end};

  uint64_t mantissa = 0;
  int64_t exponent = 0;
  bool any = false, dropped = false;
  for (; p != token.end && IsDigit(*p); ++p) {
    any = true;
    if (mantissa < kRoom) {
      mantissa = mantissa * 10 + static_cast<uint64_t>(*p - '0');
    } else {
      dropped = true;
      ++exponent;
    }
  }
  if (p != token.end && *p == '.') {
    for (++p; p != token.end && IsDigit(*p); ++p) {
      any = true;
      if (mantissa < kRoom) {
        mantissa = mantissa * 10 + static_cast<uint64_t>(*p - '0');
        --exponent;
      } else {
        dropped = true;
      }
    }
  }
  if (any && p != token.end && (*p == 'e' || *p == 'E')) {
    ++p;
    bool negative_exponent = false;
    if (p != token.end && (*p == '+' || *p == '-')) negative_exponent = *p++ == '-';
    if (p == token.end) return Number::kMalformed;
    int64_t written = 0;
    for (; p != token.end && IsDigit(*p); ++p) {
      written = std::min(written * 10 + (*p - '0'), kExponentLimit);
    }
    exponent += negative_exponent ? -written : written;
  }
  if (!any || p != token.end) {
    const bool not_finite = EqualsIgnoreCase(digits, "nan") || EqualsIgnoreCase(digits, "inf") ||
                            EqualsIgnoreCase(digits, "infinity");
    return not_finite ? Number::kNotFinite : Number::kMalformed;
  }

  double value = 0;
  if (mantissa != 0) {
    int64_t leading = exponent;  // the number is at least 10^leading and less than 10^(leading+1)
    for (uint64_t m = mantissa; m >= 10; m /= 10) ++leading;
    if (leading > 39) return Number::kTooLarge;
    if (leading < -50) {
      value = 0;  // below half of the smallest float
    } else if (FLT_EVAL_METHOD == 0 && !dropped && mantissa <= (uint64_t{1} << 53) &&
               exponent >= -22 && exponent <= 22) {
      // Both operands are exact doubles, so one operation rounds once (Clinger 1990).
      value = exponent < 0 ? static_cast<double>(mantissa) / kPowers[-exponent]
                           : static_cast<double>(mantissa) * kPowers[exponent];
    } else {
      value = SlowDouble(digits);
    }
  }
  if (value >= kFloatOverflow) return Number::kTooLarge;
  const float rounded = value > FLT_MAX ? FLT_MAX : static_cast<float>(value);
  *out = negative ? -rounded : rounded;
  return Number::kOk;
}

// The ids from `first` on are distinct? Sorts only where the file's order isn't ascending.
inline XmcStatus CheckDistinct(const std::vector<int32_t>& ids, size_t first, const char* kind,
                               int64_t line, std::vector<int32_t>* scratch) {
  bool ascending = true;
  for (size_t i = first + 1; i < ids.size(); ++i) ascending &= ids[i - 1] < ids[i];
  if (ascending) return XmcStatus{};
  scratch->assign(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
  std::sort(scratch->begin(), scratch->end());
  const auto twice = std::adjacent_find(scratch->begin(), scratch->end());
  if (twice == scratch->end()) return XmcStatus{};
  return Fail(line, std::string(kind) + " id " + std::to_string(*twice) +
                        " appears more than once in the row");
}

inline XmcStatus ParseHeader(Span line, XmcArrays* out) {
  int64_t* const targets[] = {&out->num_points, &out->num_features, &out->num_labels};
  const char* p = SkipSpaces(line.begin, line.end);
  int found = 0;
  bool well_formed = true;
  Span too_large{nullptr, nullptr};
  while (p != line.end && well_formed) {
    const Span token{p, FindSpace(p, line.end)};
    well_formed = found < 3 && ParseWhole(token, targets[found]);
    if (well_formed && *targets[found] > kMaxId && too_large.begin == nullptr) too_large = token;
    ++found;
    p = SkipSpaces(token.end, line.end);
  }
  if (!well_formed || found != 3) {
    return FailToken(1, "the header must be three whole numbers, points features labels, not ",
                     line, "");
  }
  if (too_large.begin != nullptr) {
    return FailToken(1, "the header's number ", too_large,
                     " exceeds " + std::to_string(kMaxId) + ": ids are int32");
  }
  return XmcStatus{};
}

inline XmcStatus ParseRow(Span line, int64_t number, XmcArrays* out,
                          std::vector<int32_t>* scratch) {
  const size_t first_label = out->label_ids.size();
  const size_t first_feature = out->feature_ids.size();
  const char* p = line.begin;
  const char* token_end = FindSpace(p, line.end);
  if (p != token_end && FindChar(p, token_end, ':') == token_end) {
    for (;;) {
      const Span label{p, FindChar(p, token_end, ',')};
      int32_t id = 0;
      XmcStatus status = ParseId(label, "label", out->num_labels, number, &id);
      if (!status.ok) return status;
      out->label_ids.push_back(id);
      if (label.end == token_end) break;
      p = label.end + 1;
    }
    XmcStatus status = CheckDistinct(out->label_ids, first_label, "label", number, scratch);
    if (!status.ok) return status;
    p = token_end;
  }
  for (p = SkipSpaces(p, line.end); p != line.end; p = SkipSpaces(p, line.end)) {
    const Span token{p, FindSpace(p, line.end)};
    const char* colon = FindChar(token.begin, token.end, ':');
    if (colon == token.end) {
      return FailToken(number, "expected feature:value, not ", token, "");
    }
    int32_t id = 0;
    XmcStatus status = ParseId(Span{token.begin, colon}, "feature", out->num_features, number, &id);
    if (!status.ok) return status;
    const Span text{colon + 1, token.end};
    float value = 0;
    switch (ParseValue(text, &value)) {
      case Number::kOk:
        break;
      case Number::kMalformed:
        return FailToken(number, "feature value ", text, " is not a number");
      case Number::kNotFinite:
        return FailToken(number, "feature value ", text, " is not finite");
      case Number::kTooLarge:
        return FailToken(number, "feature value ", text, " is too large for float32");
    }
    out->feature_ids.push_back(id);
    out->feature_values.push_back(value);
    p = token.end;
  }
  return CheckDistinct(out->feature_ids, first_feature, "feature", number, scratch);
}

}  // namespace xmc_internal

// Parses `size` bytes at `data` into `*out`. On failure the status names the line and the cause,
// and `*out` holds no meaningful content. Throws nothing but std::bad_alloc.
inline XmcStatus ParseXmc(const char* data, size_t size, XmcArrays* out) {
  namespace in = xmc_internal;
  *out = XmcArrays{};
  if (size == 0) return in::Fail(1, "the file is empty");
  in::Span rest{data, data + size};
  XmcStatus status = in::ParseHeader(in::TakeLine(&rest), out);
  if (!status.ok) return status;

  // The header is not to be believed: a row takes at least one byte, so this much is safe.
  const size_t rows = std::min(static_cast<size_t>(out->num_points), size);
  out->feature_offsets.reserve(rows + 1);
  out->label_offsets.reserve(rows + 1);
  out->feature_ids.reserve(size / 8);
  out->feature_values.reserve(size / 8);
  out->feature_offsets.push_back(0);
  out->label_offsets.push_back(0);
  std::vector<int32_t> scratch;
  int64_t number = 1;
  for (int64_t row = 0; row < out->num_points; ++row) {
    if (rest.begin == rest.end) {
      return in::Fail(number, "the file ends after " + std::to_string(row) +
                                  " rows, but the header promises " +
                                  std::to_string(out->num_points));
    }
    status = in::ParseRow(in::TakeLine(&rest), ++number, out, &scratch);
    if (!status.ok) return status;
    out->feature_offsets.push_back(static_cast<int64_t>(out->feature_ids.size()));
    out->label_offsets.push_back(static_cast<int64_t>(out->label_ids.size()));
  }
  while (rest.begin != rest.end) {
    ++number;
    const in::Span line = in::TakeLine(&rest);
    if (in::SkipSpaces(line.begin, line.end) != line.end) {
      return in::Fail(number, "more rows follow than the " + std::to_string(out->num_points) +
                                  " that the header promises");
    }
  }
  return XmcStatus{};
}

}  // namespace sparse_jax

#endif  // SPARSE_JAX_XMC_PARSER_H_
