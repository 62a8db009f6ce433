// XLA custom calls of the embedding bag in `bag.h`.
#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/bag.h"

namespace {

bool BagShaped(const I32& positions, const I32& segments, const F32& weights) {
  const int64_t entries = positions.element_count();
  return Shaped(positions, {entries}) && Shaped(segments, {entries}) && Shaped(weights, {entries});
}

ffi::Error BagForwardImpl(ffi::ThreadPool pool, F32 rows, I32 positions, I32 segments, F32 weights,
                          OutF32 out) {
  if (!Shaped(rows, {-1, -1})) return Bad("rows is not [n, d]");
  const int64_t num_rows = rows.dimensions()[0], d = rows.dimensions()[1];
  if (!BagShaped(positions, segments, weights) || !Shaped(*out, {-1, d})) {
    return Bad("positions, segments and weights are not [entries], or out is not [segments, d]");
  }
  const int64_t entries = positions.element_count(), n = out->dimensions()[0];
  const float *r = rows.typed_data(), *w = weights.typed_data();
  const int32_t *p = positions.typed_data(), *s = segments.typed_data();
  float* o = out->typed_data();
  const bool sorted = std::is_sorted(s, s + entries);
  const int64_t per_task = sorted ? 16 : std::max<int64_t>(n, 1);
  Share(pool, (n + per_task - 1) / per_task, entries * d, [=](int64_t task) {
    sj::BagForward(r, num_rows, p, s, w, entries, sorted, task * per_task,
                   std::min(n, (task + 1) * per_task), d, o);
  });
  return ffi::Error::Success();
}

ffi::Error BagBackwardImpl(ffi::ThreadPool pool, F32 grad_out, I32 positions, I32 segments,
                           F32 weights, OutF32 grad_rows) {
  if (!Shaped(grad_out, {-1, -1})) return Bad("grad_out is not [segments, d]");
  const int64_t num_segments = grad_out.dimensions()[0], d = grad_out.dimensions()[1];
  if (!BagShaped(positions, segments, weights) || !Shaped(*grad_rows, {-1, d})) {
    return Bad("positions, segments and weights are not [entries], or grad_rows is not [n, d]");
  }
  const int64_t entries = positions.element_count(), n = grad_rows->dimensions()[0];
  constexpr int64_t kPerTask = 64;
  const sj::ByPosition sorted = sj::SortByPosition(positions.typed_data(), entries, n);
  const float *g = grad_out.typed_data(), *w = weights.typed_data();
  const int32_t* s = segments.typed_data();
  float* o = grad_rows->typed_data();
  Share(pool, (n + kPerTask - 1) / kPerTask, entries * d, [=, &sorted](int64_t task) {
    sj::BagBackward(g, num_segments, s, w, sorted, task * kPerTask,
                    std::min(n, (task + 1) * kPerTask), d, o);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(BagForward, BagForwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(BagBackward, BagBackwardImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>());
