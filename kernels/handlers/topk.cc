// XLA custom calls of the exact search in `topk.h` and `scan_many.h`.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/scan_many.h"

namespace {

// The layer that is searched, and what comes out.
struct Layer {
  const float *queries, *bias;
  int64_t n, num_rows, d, k;
  float* scores;
  int32_t* ids;

  void Write(int64_t query, sj::TopK* best) const {
    best->Write(scores + query * k, ids + query * k);
  }
};

ffi::Error View(F32& queries, ffi::AnyBuffer& weights, F32& bias, F32& scores, I32& ids,
                Layer* layer) {
  if (!Shaped(weights, {-1, -1})) return Bad("weights is not [num_rows, d]");
  const int64_t num_rows = weights.dimensions()[0], d = weights.dimensions()[1];
  if (!Shaped(queries, {-1, d})) return Bad("queries is not [n, d]");
  const int64_t n = queries.dimensions()[0];
  if (!Shaped(bias, {num_rows})) return Bad("bias is not [num_rows]");
  if (!Shaped(scores, {n, -1}) || scores.dimensions()[1] < 1) return Bad("scores is not [n, k]");
  const int64_t k = scores.dimensions()[1];
  if (!Shaped(ids, {n, k})) return Bad("ids is not [n, k]");
  if (num_rows > INT32_MAX) return Bad("num_rows is outside the int32 range");
  *layer = {queries.typed_data(), bias.typed_data(), n, num_rows, d, k, scores.typed_data(),
            ids.typed_data()};
  return ffi::Error::Success();
}

// The best of rows [first, last).
template <typename W>
ffi::Error BestOf(ffi::ThreadPool& pool, const Layer& x, const W* weights, int64_t first,
                  int64_t last) {
  // Few queries: memory bounds them, and the lanes of a tile would run empty.
  constexpr int64_t kFew = 4, kStripe = 256;
  // Multiply-adds of a task, at least: each finds best ones of its own, which takes time besides.
  constexpr int64_t kWorthwhile = 4 << 20;
  const bool few = x.n <= kFew;
  const int64_t per_row = std::max<int64_t>(x.n * x.d, 1), rows = last - first;
  sj::ManyQueries many(x.queries, few ? 0 : x.n, x.d, rows);
  const int64_t per_task = std::max(sj::RowsOfTask(rows, x.k, pool.num_threads()),
                                    (kWorthwhile + per_row - 1) / per_row);
  const int64_t tasks = (rows + per_task - 1) / per_task;
  std::vector<std::vector<sj::TopK>> best(
      static_cast<size_t>(std::max<int64_t>(tasks, 1)),
      std::vector<sj::TopK>(static_cast<size_t>(x.n), sj::TopK(x.k)));
  Share(pool, tasks, rows * x.d, [&](int64_t task) {
    auto& own = best[static_cast<size_t>(task)];
    const int64_t begin = first + task * per_task, end = std::min(last, begin + per_task);
    if (!few) {
      return sj::ScanMany(&many, weights, x.bias, begin, end, sj::NoRest{}, &own);
    }
    for (int64_t at = begin; at < end; at += kStripe) {
      for (int64_t b = 0; b < x.n; ++b) {
        sj::ScanOne(x.queries + b * x.d, weights, x.bias, x.d, at, std::min(end, at + kStripe),
                    nullptr, &own[static_cast<size_t>(b)]);
      }
    }
  });
  Share(pool, x.n, x.n * tasks * x.k, [&](int64_t b) {
    sj::TopK& all = best[0][static_cast<size_t>(b)];
    for (int64_t task = 1; task < tasks; ++task) {
      all.Merge(best[static_cast<size_t>(task)][static_cast<size_t>(b)]);
    }
    x.Write(b, &all);
  });
  return ffi::Error::Success();
}

ffi::Error TopKRunImpl(ffi::ThreadPool pool, F32 queries, ffi::AnyBuffer weights, F32 bias,
                       I32 first, OutF32 scores, OutI32 ids, int64_t size) {
  Layer x;
  if (auto error = View(queries, weights, bias, *scores, *ids, &x); error.failure()) return error;
  if (!Shaped(first, {})) return Bad("first is not a scalar");
  if (size < 0 || size > x.num_rows) return Bad("size is not within [0, num_rows]");
  const int64_t at = std::clamp<int64_t>(*first.typed_data(), 0, x.num_rows - size);
  return OnRows(weights, [&](const auto* rows) { return BestOf(pool, x, rows, at, at + size); });
}

ffi::Error TopKAmongImpl(ffi::ThreadPool pool, F32 queries, ffi::AnyBuffer weights, F32 bias,
                         I32 among, OutF32 scores, OutI32 ids) {
  Layer x;
  if (auto error = View(queries, weights, bias, *scores, *ids, &x); error.failure()) return error;
  if (!Shaped(among, {x.n, -1})) return Bad("among is not [n, m]");
  const int64_t m = among.dimensions()[1];
  const int32_t* from = among.typed_data();
  return OnRows(weights, [&](const auto* rows) {
    Share(pool, x.n, x.n * m * x.d, [&](int64_t b) {
      sj::TopK best(x.k);
      sj::ScanAmong(x.queries + b * x.d, rows, x.bias, x.num_rows, x.d, from + b * m, m, &best);
      x.Write(b, &best);
    });
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TopKRun, TopKRunImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Ret<F32>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("size"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(TopKAmong, TopKAmongImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Ret<F32>()
                                  .Ret<I32>());
