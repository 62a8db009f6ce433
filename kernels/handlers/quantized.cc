// The XLA custom call of the scan of quantized rows in `quantized.h`.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/quantized.h"

namespace {

using U8 = ffi::Buffer<ffi::U8>;

// For each query the ids of its best rows by the sums of their codes' table entries.
ffi::Error QuantizedScanImpl(ffi::ThreadPool pool, U8 tables, I32 below, F32 steps, U8 codes,
                             F32 scales, F32 biases, OutI32 ids) {
  if (!Shaped(tables, {-1, -1, sj::kTableEntries})) return Bad("tables is not [n, subspaces, 16]");
  const int64_t n = tables.dimensions()[0], subspaces = tables.dimensions()[1];
  if (subspaces % 2 != 0 || subspaces > 256) return Bad("subspaces must be even and at most 256");
  if (!Shaped(codes, {-1, subspaces / 2, sj::kBlockRows})) {
    return Bad("codes is not [blocks, subspaces / 2, 32]");
  }
  const int64_t blocks = codes.dimensions()[0];
  const int64_t padded = blocks * sj::kBlockRows;
  if (!Shaped(below, {n}) || !Shaped(steps, {n})) return Bad("below or steps is not [n]");
  if (!Shaped(scales, {padded}) || !Shaped(biases, {padded})) {
    return Bad("scales or biases is not [32 blocks]");
  }
  if (padded > INT32_MAX) return Bad("the rows are outside the int32 range");
  if (!Shaped(*ids, {n, -1}) || ids->dimensions()[1] < 1) return Bad("ids is not [n, rescored]");
  const int64_t limit = ids->dimensions()[1];
  const sj::QuantizedRows rows{codes.typed_data(), scales.typed_data(), biases.typed_data(), blocks,
                               subspaces / 2};
  // Queries pass a chunk of rows together, while it is in the cache. Where they are too few for all
  // threads, these share the rows: what is best is the same however they are cut.
  constexpr int64_t kGroup = 8;
  const int64_t groups = (n + kGroup - 1) / kGroup;
  const int64_t parts = std::max<int64_t>(1, pool.num_threads() / std::max<int64_t>(groups, 1));
  const int64_t per_part = (blocks + parts - 1) / parts;
  std::vector<std::vector<sj::Shortlist>> best(static_cast<size_t>(groups * parts));
  Share(pool, groups * parts, n * blocks * subspaces * 4, [&](int64_t task) {
    const int64_t first = task / parts * kGroup, count = std::min(kGroup, n - first);
    const int64_t begin = task % parts * per_part;
    auto& own = best[static_cast<size_t>(task)];
    own.assign(static_cast<size_t>(count), sj::Shortlist(limit));
    const sj::QuantizedQueries some{tables.typed_data() + first * subspaces * sj::kTableEntries,
                                    below.typed_data() + first, steps.typed_data() + first, count};
    sj::ScanQuantized(rows, some, begin, std::min(blocks, begin + per_part), own.data());
  });
  Share(pool, n, n * limit * parts, [&](int64_t b) {
    auto* own = &best[static_cast<size_t>(b / kGroup * parts)];
    sj::Shortlist& all = (*own)[static_cast<size_t>(b % kGroup)];
    for (int64_t part = 1; part < parts; ++part) all.Merge(own[part][static_cast<size_t>(b % kGroup)]);
    all.Write(ids->typed_data() + b * limit);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(QuantizedScan, QuantizedScanImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<U8>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<U8>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<I32>());
