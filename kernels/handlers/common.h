// What the handlers share: buffer types, checks, and the sharing out of work. A handler checks
// shapes, views the buffers as spans, shares out the work, and calls the algorithm in the header of
// its name. Only the files of this folder know XLA.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sparse_jax/parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
namespace sj = sparse_jax;

using I32 = ffi::Buffer<ffi::S32>;
using F32 = ffi::Buffer<ffi::F32>;
using OutI32 = ffi::Result<I32>;
using OutF32 = ffi::Result<F32>;

// Below this many touched words a second thread costs more than it saves.
constexpr int64_t kSmallWork = 1 << 14;

template <typename Body>
void Share(ffi::ThreadPool& pool, int64_t tasks, int64_t words, Body&& body) {
  // The caller works too: with as many helpers as threads, two would contend for one core.
  const int64_t helpers = words < kSmallWork ? 0 : pool.num_threads() - 1;
  sj::ParallelFor(
      tasks, helpers, [&pool](auto work) { pool.Schedule(std::move(work)); }, body);
}

inline ffi::Error Bad(const std::string& what) {
  return ffi::Error::InvalidArgument("sparse_jax: " + what);
}

// Dims by rank, -1 = any; empty message when all is well.
template <typename Buffer>
inline bool Shaped(const Buffer& buffer, std::vector<int64_t> want) {
  const auto dims = buffer.dimensions();
  if (dims.size() != want.size()) return false;
  for (size_t i = 0; i < want.size(); ++i) {
    if (want[i] >= 0 && dims[i] != want[i]) return false;
  }
  return true;
}

// Calls body with the rows of a table that is float32 or bfloat16 (as words).
template <typename Body>
ffi::Error OnRows(const ffi::AnyBuffer& table, Body&& body) {
  if (table.element_type() == ffi::F32) return body(table.typed_data<float>());
  if (table.element_type() == ffi::BF16) return body(table.reinterpret_data<uint16_t>());
  return Bad("the rows are neither float32 nor bfloat16");
}

// Makes a result begin as its operand. Where the call aliases the two, as ours do, they are one
// buffer already; a call that doesn't still gets an answer, not what happened to lie in memory.
template <typename Buffer>
bool Carry(Buffer& operand, Buffer& result) {
  const auto from = operand.dimensions(), to = result.dimensions();
  if (!std::equal(from.begin(), from.end(), to.begin(), to.end())) return false;
  if (operand.typed_data() != result.typed_data()) {
    std::copy_n(operand.typed_data(), operand.element_count(), result.typed_data());
  }
  return true;
}

// Words of a row of a table with any trailing shape.
inline int64_t RowSize(const F32& table) {
  int64_t d = 1;
  for (size_t i = 1; i < table.dimensions().size(); ++i) d *= table.dimensions()[i];
  return d;
}

constexpr int64_t kRowsPerTask = 256;
