// XLA custom calls of the hash tables in `tables.h`.
#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/tables.h"

namespace {

ffi::Error View(I32& buckets, I32& sizes, I32& codes, I32& stamps, I32& seed, int32_t policy,
                sj::TablesView* view) {
  if (buckets.dimensions().size() != 3) return Bad("buckets is not [tables, num_buckets, capacity]");
  const auto dims = buckets.dimensions();
  if (!Shaped(sizes, {dims[0], dims[1]})) return Bad("sizes is not [tables, num_buckets]");
  if (!Shaped(codes, {dims[0], -1})) return Bad("codes is not [tables, num_rows]");
  if (!Shaped(stamps, {codes.dimensions()[1]})) return Bad("stamps is not [num_rows]");
  if (!Shaped(seed, {})) return Bad("seed is not a scalar");
  if (dims[2] < 1 || dims[1] < 1) return Bad("capacity and num_buckets must be at least 1");
  if (policy != 0 && policy != 1) return Bad("policy is neither 0 (reservoir) nor 1 (fifo)");
  *view = {buckets.typed_data(), sizes.typed_data(), codes.typed_data(), stamps.typed_data(),
           dims[0],              dims[1],            dims[2],            codes.dimensions()[1],
           static_cast<uint32_t>(*seed.typed_data()), static_cast<sj::Policy>(policy)};
  return ffi::Error::Success();
}

ffi::Error TablesBuildImpl(ffi::ThreadPool pool, I32 old_codes, I32 old_stamps, I32 seed,
                           OutI32 codes, OutI32 stamps, OutI32 buckets, OutI32 sizes,
                           int32_t policy) {
  if (!Carry(old_codes, *codes) || !Carry(old_stamps, *stamps)) {
    return Bad("codes or stamps has another shape as an operand than as a result");
  }
  sj::TablesView t;
  if (auto error = View(*buckets, *sizes, *codes, *stamps, seed, policy, &t); error.failure()) {
    return error;
  }
  Share(pool, t.tables, t.tables * t.num_rows, [t](int64_t table) { sj::BuildTable(t, table); });
  return ffi::Error::Success();
}

ffi::Error TablesWriteImpl(ffi::ThreadPool pool, I32 old_buckets, I32 old_sizes, I32 old_codes,
                           I32 old_stamps, I32 ids, I32 new_codes, I32 clock, I32 seed,
                           OutI32 buckets, OutI32 sizes, OutI32 codes, OutI32 stamps,
                           OutI32 rejected, int32_t policy, int32_t restamp) {
  if (!Carry(old_buckets, *buckets) || !Carry(old_sizes, *sizes) || !Carry(old_codes, *codes) ||
      !Carry(old_stamps, *stamps)) {
    return Bad("the tables have other shapes as operands than as results");
  }
  sj::TablesView t;
  if (auto error = View(*buckets, *sizes, *codes, *stamps, seed, policy, &t); error.failure()) {
    return error;
  }
  const int64_t n = ids.element_count();
  if (!Shaped(ids, {n}) || !Shaped(new_codes, {n, t.tables})) {
    return Bad("ids is not [n], or new_codes is not [n, tables]");
  }
  if (!Shaped(clock, {}) || !Shaped(*rejected, {})) return Bad("clock or rejected is not a scalar");
  int32_t* refused = rejected->typed_data();
  *refused = 0;
  const auto writes = sj::ResolveWrites(t, ids.typed_data(), new_codes.typed_data(), n, refused);
  if (restamp) {
    const uint32_t now = static_cast<uint32_t>(*clock.typed_data());
    for (const sj::Write& w : writes) {
      t.stamps[w.id] = static_cast<int32_t>(now + static_cast<uint32_t>(w.position));
    }
  }
  const int32_t* fresh = new_codes.typed_data();
  const bool restamped = restamp && t.policy == sj::Policy::kFifo;
  Share(pool, t.tables, t.tables * static_cast<int64_t>(writes.size()) * t.capacity,
        [t, &writes, fresh, restamped](int64_t table) {
          sj::WriteTable(t, table, writes, fresh, restamped);
        });
  return ffi::Error::Success();
}

ffi::Error TablesQueryImpl(ffi::ThreadPool pool, I32 buckets, I32 query_codes, I32 seed, OutI32 ids,
                           OutI32 counts, OutI32 distinct, int64_t num_rows) {
  const auto dims = buckets.dimensions();
  if (dims.size() != 3) return Bad("buckets is not [tables, num_buckets, capacity]");
  const int64_t n = query_codes.dimensions().size() == 0 ? 0 : query_codes.dimensions()[0];
  if (!Shaped(query_codes, {n, dims[0]})) return Bad("query codes are not [n, tables]");
  if (!Shaped(*ids, {n, -1}) || !Shaped(*distinct, {n})) return Bad("results are not [n, most]");
  const int64_t most = ids->dimensions()[1];
  if (!Shaped(*counts, {n, most}) || !Shaped(seed, {})) return Bad("counts is not [n, most]");
  if (num_rows < 0 || num_rows > INT32_MAX) return Bad("num_rows is outside the int32 range");
  const sj::TablesView t{buckets.typed_data(), nullptr, nullptr, nullptr, dims[0], dims[1], dims[2],
                         num_rows, static_cast<uint32_t>(*seed.typed_data()), sj::Policy::kReservoir};
  constexpr int64_t kQueriesPerTask = 32;
  const int32_t* codes = query_codes.typed_data();
  int32_t *out_ids = ids->typed_data(), *out_counts = counts->typed_data(),
          *out_distinct = distinct->typed_data();
  auto share = [&](auto count) {
    Share(pool, (n + kQueriesPerTask - 1) / kQueriesPerTask, n * dims[0] * dims[2],
          [=](int64_t task) {
            // Kept by the thread for its next task: making it anew would cost O(num_rows).
            thread_local sj::CollisionCounter<decltype(count)> counter(0);
            if (counter.num_rows() < t.num_rows) counter = decltype(counter)(t.num_rows);
            const int64_t begin = task * kQueriesPerTask;
            sj::Query(t, codes, begin, std::min(n, begin + kQueriesPerTask), most, &counter,
                      out_ids, out_counts, out_distinct);
          });
  };
  if (dims[0] <= UINT8_MAX) {
    share(uint8_t{});
  } else {
    share(uint32_t{});
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TablesBuild, TablesBuildImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Attr<int32_t>("policy"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(TablesWrite, TablesWriteImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Attr<int32_t>("policy")
                                  .Attr<int32_t>("restamp"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(TablesQuery, TablesQueryImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("num_rows"));
