// Parsing of points, for tests: ASan sees a read one past their end.

#ifndef SPARSE_JAX_TESTS_EXACT_PARSE_H_
#define SPARSE_JAX_TESTS_EXACT_PARSE_H_

#include <algorithm>
#include <memory>
#include <string>

#include "sparse_jax/xmc_parser.h"

// Parses an exact-size copy on the heap.
inline sparse_jax::XmcStatus Parse(const std::string& text, sparse_jax::XmcArrays* out) {
  std::unique_ptr<char[]> copy(new char[text.size()]);
  std::copy(text.begin(), text.end(), copy.get());
  return sparse_jax::ParseXmc(copy.get(), text.size(), out);
}

#endif  // SPARSE_JAX_TESTS_EXACT_PARSE_H_
