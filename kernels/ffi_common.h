// What the handlers share: buffer types, checks, and the sharing out of work.
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
