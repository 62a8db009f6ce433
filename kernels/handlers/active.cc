// The XLA custom call of the active sets in `active.h`.
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/active.h"

namespace {

ffi::Error ActiveSetsImpl(ffi::ThreadPool pool, I32 seeds, I32 labels, I32 candidates, I32 scores,
                          OutI32 ids, ffi::Result<ffi::Buffer<ffi::S8>> sources, OutI32 positions,
                          int64_t num_rows) {
  if (!Shaped(seeds, {-1, 2})) return Bad("seeds is not [sets, 2]");
  const int64_t sets = seeds.dimensions()[0];
  if (!Shaped(labels, {sets, -1}) || !Shaped(candidates, {sets, -1}) || !Shaped(*ids, {sets, -1})) {
    return Bad("labels, candidates and ids are not [sets, n]");
  }
  const int64_t p = labels.dimensions()[1], m = candidates.dimensions()[1],
                size = ids->dimensions()[1];
  if (!Shaped(scores, {sets, m}) || !Shaped(*sources, {sets, size}) ||
      !Shaped(*positions, {sets, p})) {
    return Bad("scores, sources and positions are not as candidates, ids and labels");
  }
  if (num_rows < 1 || num_rows > INT32_MAX) return Bad("num_rows is outside the int32 range");
  const int32_t *seed = seeds.typed_data(), *l = labels.typed_data(), *c = candidates.typed_data(),
                *s = scores.typed_data();
  int32_t *out = ids->typed_data(), *places = positions->typed_data();
  int8_t* from = sources->typed_data();
  Share(pool, sets, sets * (p + m + size), [=](int64_t k) {
    sj::MakeActiveSet({l + k * p, c + k * m, s + k * m, static_cast<uint32_t>(seed[2 * k]),
                       static_cast<uint32_t>(seed[2 * k + 1]), p, m, size, num_rows, out + k * size,
                       from + k * size, places + k * p});
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(ActiveSets, ActiveSetsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Ret<I32>()
                                  .Ret<ffi::Buffer<ffi::S8>>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("num_rows"));
