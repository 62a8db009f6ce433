// The XLA custom call of `mach.h`.
#include "sparse_jax/mach.h"

#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"

namespace {

ffi::Error MachTopKImpl(ffi::ThreadPool pool, F32 logits, OutF32 scores, OutI32 ids,
                        int64_t num_labels, int64_t repetitions, int64_t bits, int64_t seed,
                        int64_t probes) {
  if (bits < 1 || bits > 30) return Bad("bits is not within [1, 30]");
  if (num_labels < 1 || num_labels > INT32_MAX) return Bad("num_labels is not within [1, 2^31)");
  if (repetitions < 1 || repetitions > INT32_MAX >> bits) return Bad("repetitions is out of range");
  const int64_t rows = repetitions << bits;
  if (!Shaped(logits, {-1, rows})) return Bad("logits is not [n, repetitions * 2^bits]");
  const int64_t n = logits.dimensions()[0];
  if (!Shaped(*scores, {n, -1}) || scores->dimensions()[1] < 1) return Bad("scores is not [n, k]");
  const int64_t k = scores->dimensions()[1];
  if (!Shaped(*ids, {n, k})) return Bad("ids is not [n, k]");
  if (probes < 1) return Bad("probes is below 1");
  constexpr int64_t kMostBlocks = 1 << 24;  // of all repetitions: each has keys in memory
  if (((num_labels >> bits) + 1) * repetitions > kMostBlocks) return Bad("buckets are too few");
  const sj::Buckets buckets(num_labels, repetitions, bits, static_cast<uint32_t>(seed));
  const float* from = logits.typed_data();
  Share(pool, n, n * rows, [&](int64_t b) {
    sj::TopK best(k);
    sj::MergeBuckets(buckets, from + b * rows, std::min(probes, buckets.size()), &best);
    best.Write(scores->typed_data() + b * k, ids->typed_data() + b * k);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MachTopK, MachTopKImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<I32>()
                                  .Attr<int64_t>("num_labels")
                                  .Attr<int64_t>("repetitions")
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("seed")
                                  .Attr<int64_t>("probes"));
