// The XLA custom call of the sums in `partition.h`.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/partition.h"

namespace {

ffi::Error LogPartitionImpl(ffi::ThreadPool pool, F32 queries, F32 rows, F32 bias, I32 first,
                            OutF32 out) {
  if (!Shaped(rows, {-1, -1})) return Bad("rows is not [n, d]");
  const int64_t n = rows.dimensions()[0], d = rows.dimensions()[1];
  if (!Shaped(queries, {-1, d}) || !Shaped(bias, {n}) || d < 1 || d > sj::kMostCoordinates) {
    return Bad("queries is not [b, d] with d from 1 to 2^20, or bias is not [n]");
  }
  const int64_t b = queries.dimensions()[0];
  if (!Shaped(first, {b}) || !Shaped(*out, {b})) return Bad("first or out is not [b]");
  sj::IntegerRows table(rows.typed_data(), bias.typed_data(), n, d);
  Share(pool, table.panels, n * d, [&](int64_t panel) { table.Fill(panel); });
  // Where an earlier query is the same, its answer is taken.
  const int32_t* same = first.typed_data();
  const auto repeats = [=](int64_t j) { return same[j] >= 0 && same[j] < j; };
  std::vector<int64_t> chosen;
  for (int64_t j = 0; j < b; ++j) {
    if (!repeats(j)) chosen.push_back(j);
  }
  const auto count = static_cast<int64_t>(chosen.size());
  const float* from = queries.typed_data();
  float* to = out->typed_data();
  constexpr int64_t kPerTask = sj::kTaskTiles * sj::kTileQueries;
  Share(pool, (count + kPerTask - 1) / kPerTask, count * n, [&](int64_t task) {
    const int64_t at = task * kPerTask, size = std::min(count - at, kPerTask);
    std::vector<float> some(static_cast<size_t>(size * d)), found(static_cast<size_t>(size));
    for (int64_t j = 0; j < size; ++j) {
      std::copy_n(from + chosen[static_cast<size_t>(at + j)] * d, d, some.data() + j * d);
    }
    sj::LogPartitions(table, some.data(), size, found.data());
    for (int64_t j = 0; j < size; ++j) {
      to[chosen[static_cast<size_t>(at + j)]] = found[static_cast<size_t>(j)];
    }
  });
  for (int64_t j = 0; j < b; ++j) {
    if (repeats(j)) to[j] = to[same[j]];
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(LogPartition, LogPartitionImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Ret<F32>());
