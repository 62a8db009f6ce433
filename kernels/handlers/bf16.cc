// XLA custom calls on tables of bfloat16: XLA:CPU itself would convert the whole table.
#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/bf16.h"

namespace {

using Bf16 = ffi::Buffer<ffi::BF16>;
using U32 = ffi::Buffer<ffi::U32>;

// Whether rows are [n, ...] of a table [num_rows, ...] and ids [n]; then the sizes.
struct Sizes {
  int64_t n, num_rows, d;
};

bool Fit(const Bf16& table, const I32& ids, const F32& rows, Sizes* sizes) {
  const auto dims = table.dimensions(), of_rows = rows.dimensions();
  const int64_t n = ids.element_count();
  if (!Shaped(ids, {n}) || dims.size() == 0 || dims.size() != of_rows.size()) return false;
  if (of_rows[0] != n || !std::equal(dims.begin() + 1, dims.end(), of_rows.begin() + 1)) return false;
  int64_t d = 1;
  for (size_t i = 1; i < dims.size(); ++i) d *= dims[i];
  *sizes = {n, dims[0], d};
  return true;
}

template <typename Body>
void ShareRows(ffi::ThreadPool& pool, const Sizes& x, Body&& body) {
  Share(pool, (x.n + kRowsPerTask - 1) / kRowsPerTask, x.n * x.d, [&](int64_t task) {
    body(task * kRowsPerTask, std::min(x.n, (task + 1) * kRowsPerTask));
  });
}

ffi::Error TakeBf16Impl(ffi::ThreadPool pool, Bf16 table, I32 ids, OutF32 rows) {
  Sizes x;
  if (!Fit(table, ids, *rows, &x)) return Bad("ids is not [n], or rows don't fit the table");
  const int32_t* at = ids.typed_data();
  const uint16_t* from = table.typed_data();
  float* to = rows->typed_data();
  ShareRows(pool, x, [=](int64_t begin, int64_t end) {
    sj::TakeBf16(at, begin, end, x.num_rows, x.d, from, to);
  });
  return ffi::Error::Success();
}

ffi::Error AddBf16Impl(ffi::ThreadPool pool, Bf16 old_table, I32 ids, F32 rows, U32 seed,
                       ffi::Result<Bf16> table) {
  Sizes x;
  if (!Fit(old_table, ids, rows, &x)) return Bad("ids is not [n], or rows don't fit the table");
  if (!Carry(old_table, *table)) return Bad("the table has another shape as a result");
  if (!Shaped(seed, {})) return Bad("seed is not a scalar");
  const int32_t* at = ids.typed_data();
  const uint32_t salt = *seed.typed_data();
  const float* from = rows.typed_data();
  uint16_t* to = table->typed_data();
  ShareRows(pool, x, [=](int64_t begin, int64_t end) {
    sj::AddBf16(at, begin, end, x.num_rows, x.d, salt, from, to);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TakeBf16, TakeBf16Impl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Bf16>()
                                  .Arg<I32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(AddBf16, AddBf16Impl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Bf16>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<U32>()
                                  .Ret<Bf16>());
