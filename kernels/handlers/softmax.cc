// The XLA custom call of the loss in `softmax.h`.
#include <algorithm>
#include <cstdint>

#include "common.h"
#include "handlers.h"
#include "sparse_jax/softmax.h"

namespace {

ffi::Error SoftmaxLossImpl(ffi::ThreadPool pool, F32 logits, F32 bias, I32 label_rows,
                           I32 positions, ffi::Result<ffi::AnyBuffer> grad, OutF32 loss,
                           OutI32 best) {
  if (!Shaped(logits, {-1, -1}) || logits.dimensions()[1] < 1) return Bad("logits is not [b, a]");
  const int64_t rows = logits.dimensions()[0], active = logits.dimensions()[1];
  const int64_t entries = label_rows.element_count();
  if (!Shaped(bias, {active}) || !Shaped(*loss, {rows}) || !Shaped(*best, {rows})) {
    return Bad("bias is not [active], or loss and best are not [rows]");
  }
  if (!Shaped(label_rows, {entries}) || !Shaped(positions, {entries}) ||
      !Shaped(*grad, {rows, active})) {
    return Bad("label_rows and positions are not [entries], or grad is not as logits");
  }
  sj::SoftmaxTask task{logits.typed_data(), nullptr, nullptr, bias.typed_data(),
                       label_rows.typed_data(), positions.typed_data(), active, entries,
                       loss->typed_data(), best->typed_data()};
  if (grad->element_type() == ffi::F32) {
    task.gradients = grad->typed_data<float>();
    // The call aliases the two, where it can.
    if (task.gradients != task.logits) std::copy_n(task.logits, rows * active, task.gradients);
  } else if (grad->element_type() == ffi::BF16) {
    task.rounded = grad->reinterpret_data<uint16_t>();
  } else {
    return Bad("grad is neither float32 nor bfloat16");
  }
  constexpr int64_t kPerTask = 8;
  Share(pool, (rows + kPerTask - 1) / kPerTask, rows * active, [=](int64_t part) {
    sj::SoftmaxRows(task, part * kPerTask, std::min(rows, (part + 1) * kPerTask));
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SoftmaxLoss, SoftmaxLossImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<F32>()
                                  .Ret<I32>());
