// XLA custom calls: they check shapes, view the buffers as spans, share out the work, and call the
// algorithms. Only the handlers know XLA.
#include "ffi_common.h"
#include "ffi_handlers.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sparse_jax/active.h"
#include "sparse_jax/optimizer.h"
#include "sparse_jax/rows.h"
#include "sparse_jax/softmax.h"
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

ffi::Error SoftmaxLossImpl(ffi::ThreadPool pool, F32 logits, F32 bias, I32 label_rows,
                           I32 positions, OutF32 grad, OutF32 loss, OutI32 best) {
  if (!Shaped(logits, {-1, -1}) || logits.dimensions()[1] < 1) return Bad("logits is not [b, a]");
  const int64_t rows = logits.dimensions()[0], active = logits.dimensions()[1];
  const int64_t entries = label_rows.element_count();
  if (!Shaped(bias, {active}) || !Shaped(*loss, {rows}) || !Shaped(*best, {rows})) {
    return Bad("bias is not [active], or loss and best are not [rows]");
  }
  if (!Shaped(label_rows, {entries}) || !Shaped(positions, {entries}) || !Carry(logits, *grad)) {
    return Bad("label_rows and positions are not [entries], or grad is not as logits");
  }
  const sj::SoftmaxTask task{grad->typed_data(), bias.typed_data(), label_rows.typed_data(),
                             positions.typed_data(), active, entries, loss->typed_data(),
                             best->typed_data()};
  constexpr int64_t kPerTask = 8;
  Share(pool, (rows + kPerTask - 1) / kPerTask, rows * active, [=](int64_t part) {
    sj::SoftmaxRows(task, part * kPerTask, std::min(rows, (part + 1) * kPerTask));
  });
  return ffi::Error::Success();
}

// Rows of a table with any trailing shape, as [rows, d].
int64_t RowSize(const F32& table) {
  int64_t d = 1;
  for (size_t i = 1; i < table.dimensions().size(); ++i) d *= table.dimensions()[i];
  return d;
}

constexpr int64_t kRowsPerTask = 256;

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

XLA_FFI_DEFINE_HANDLER_SYMBOL(UniqueIds, UniqueIdsImpl,
                              ffi::Ffi::Bind()
                                  .Arg<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("num_rows"));

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

XLA_FFI_DEFINE_HANDLER_SYMBOL(SplitColumns, SplitColumnsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(SoftmaxLoss, SoftmaxLossImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<I32>());

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

XLA_FFI_DEFINE_HANDLER_SYMBOL(AddRows, AddRowsImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>());

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
