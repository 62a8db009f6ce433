// XLA custom calls on rows of a table and their ids: `rows.h`.
#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/rows.h"

namespace {

ffi::Error UniqueIdsImpl(I32 ids, OutI32 unique, OutI32 inverse, OutI32 count, int64_t num_rows) {
  const int64_t n = ids.element_count();
  if (!Shaped(ids, {n}) || !Shaped(*inverse, {n}) || !Shaped(*unique, {-1}) || !Shaped(*count, {})) {
    return Bad("ids and inverse are not [n], unique is not [size], or count is not a scalar");
  }
  if (num_rows < 0 || num_rows > INT32_MAX) return Bad("num_rows is outside the int32 range");
  *count->typed_data() = sj::UniqueIds(ids.typed_data(), n, num_rows, unique->element_count(),
                                       unique->typed_data(), inverse->typed_data());
  return ffi::Error::Success();
}

ffi::Error AddRowsImpl(ffi::ThreadPool pool, F32 old_table, I32 ids, F32 rows, OutF32 table) {
  const int64_t n = ids.element_count(), d = RowSize(*table);
  const auto dims = table->dimensions(), of_rows = rows.dimensions();
  const bool fits = dims.size() > 0 && dims.size() == of_rows.size() && of_rows[0] == n &&
                    rows.element_count() == n * d;
  if (!Shaped(ids, {n}) || !fits || !Carry(old_table, *table)) {
    return Bad("ids is not [n], or table and rows don't fit each other");
  }
  const int64_t num_rows = dims[0];
  const int32_t* at = ids.typed_data();
  const float* from = rows.typed_data();
  float* to = table->typed_data();
  Share(pool, (n + kRowsPerTask - 1) / kRowsPerTask, n * d, [=](int64_t task) {
    const int64_t begin = task * kRowsPerTask;
    sj::AddRows(at, begin, std::min(n, begin + kRowsPerTask), num_rows, d, from, to);
  });
  return ffi::Error::Success();
}

ffi::Error SplitColumnsImpl(ffi::ThreadPool pool, F32 columns, OutF32 rows, OutF32 last) {
  if (!Shaped(columns, {-1, -1}) || !Shaped(*rows, {-1, -1})) {
    return Bad("columns is not [d + 1, n] or rows is not [n, d]");
  }
  const int64_t n = rows->dimensions()[0], d = rows->dimensions()[1];
  if (!Shaped(columns, {d + 1, n}) || !Shaped(*last, {n})) {
    return Bad("columns is not [d + 1, n] or last is not [n]");
  }
  const float* from = columns.typed_data();
  float *to = rows->typed_data(), *behind = last->typed_data();
  constexpr int64_t kPerTask = 128;
  Share(pool, (n + kPerTask - 1) / kPerTask, n * d, [=](int64_t task) {
    sj::SplitColumns(from, n, d, task * kPerTask, std::min(n, (task + 1) * kPerTask), to, behind);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(UniqueIds, UniqueIdsImpl,
                              ffi::Ffi::Bind()
                                  .Arg<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("num_rows"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(AddRows, AddRowsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(SplitColumns, SplitColumnsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>());
