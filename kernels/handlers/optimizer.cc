// The XLA custom calls of Adam on rows: `optimizer.h`.
#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/optimizer.h"

namespace {

ffi::Error AdamRowsImpl(ffi::ThreadPool pool, F32 old_mu, F32 old_nu, F32 grad, I32 ids, F32 scalars,
                        OutF32 mu, OutF32 nu, OutF32 update) {
  const int64_t n = ids.element_count(), d = RowSize(*mu);
  if (mu->dimensions().size() == 0 || !Shaped(ids, {n}) || !Shaped(scalars, {9})) {
    return Bad("the moments are scalars, ids is not [n], or scalars is not [9]");
  }
  if (!Carry(old_mu, *mu) || !Carry(old_nu, *nu) || !Carry(grad, *update) ||
      nu->element_count() != mu->element_count() || update->element_count() != n * d) {
    return Bad("moments and gradient don't fit each other");
  }
  const float* c = scalars.typed_data();
  const sj::AdamScalars s{c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]};
  const int64_t num_rows = mu->dimensions()[0];
  const int32_t* at = ids.typed_data();
  float *m = mu->typed_data(), *v = nu->typed_data(), *u = update->typed_data();
  Share(pool, (n + kRowsPerTask - 1) / kRowsPerTask, n * d, [=](int64_t task) {
    const int64_t begin = task * kRowsPerTask;
    sj::AdamRows(at, begin, std::min(n, begin + kRowsPerTask), num_rows, d, s, m, v, u);
  });
  return ffi::Error::Success();
}

ffi::Error AdamRowsAddedImpl(ffi::ThreadPool pool, F32 old_mu, F32 old_nu, F32 old_table, F32 grad,
                             I32 ids, F32 scalars, OutF32 mu, OutF32 nu, OutF32 table) {
  const int64_t n = ids.element_count(), d = RowSize(*table);
  if (table->dimensions().size() == 0 || !Shaped(ids, {n}) || !Shaped(scalars, {9})) {
    return Bad("the table is a scalar, ids is not [n], or scalars is not [9]");
  }
  const auto dims = table->dimensions(), of_rows = grad.dimensions();
  const bool fits = dims.size() == of_rows.size() && of_rows[0] == n &&
                    grad.element_count() == n * d &&
                    std::equal(dims.begin(), dims.end(), mu->dimensions().begin(),
                               mu->dimensions().end()) &&
                    std::equal(dims.begin(), dims.end(), nu->dimensions().begin(),
                               nu->dimensions().end());
  if (!fits || !Carry(old_mu, *mu) || !Carry(old_nu, *nu) || !Carry(old_table, *table)) {
    return Bad("table, moments and gradient don't fit each other");
  }
  const float* c = scalars.typed_data();
  const sj::AdamScalars s{c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]};
  const int64_t num_rows = dims[0];
  const int32_t* at = ids.typed_data();
  const float* g = grad.typed_data();
  float *m = mu->typed_data(), *v = nu->typed_data(), *to = table->typed_data();
  Share(pool, (n + kRowsPerTask - 1) / kRowsPerTask, n * d, [=](int64_t task) {
    const int64_t begin = task * kRowsPerTask;
    sj::AdamRowsAdded(at, begin, std::min(n, begin + kRowsPerTask), num_rows, d, s, g, m, v, to);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AdamRows, AdamRowsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(AdamRowsAdded, AdamRowsAddedImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>());
