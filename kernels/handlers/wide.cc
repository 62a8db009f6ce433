// XLA custom calls of the wide classifier in `wide.h`.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common.h"
#include "handlers.h"
#include "sparse_buffers.h"

namespace {

// Words a batch's rows of weights hold: what is shared out.
int64_t Words(const sj::WideView& view, const sj::WideBatch& batch, int64_t batch_size) {
  int64_t words = view.num_labels;
  for (const int32_t e : batch.by_example.order) {
    const int32_t f = batch.features[e];
    if (view.Has(f)) words += view.End(f) - view.Begin(f);
  }
  return words;
}

// Whether example b holds a feature.
bool HasFeature(const sj::WideView& view, const sj::WideBatch& batch, int64_t b) {
  const auto at = static_cast<size_t>(b);
  for (int32_t i = batch.by_example.starts[at]; i < batch.by_example.starts[at + 1]; ++i) {
    if (view.Has(batch.features[batch.by_example.order[static_cast<size_t>(i)]])) return true;
  }
  return false;
}

ffi::Error WideScoresImpl(ffi::ThreadPool pool, I32 offsets, I32 labels, F32 weights, F32 bias,
                          I32 features, I32 examples, F32 values, OutF32 scores) {
  sj::WideView view;
  sj::WideBatch batch;
  if (auto error = ViewOf(offsets, labels, weights, bias, &view); error.failure()) return error;
  if (!Shaped(*scores, {-1, view.num_labels})) return Bad("scores is not [batch, num_labels]");
  const int64_t n = scores->dimensions()[0];
  if (auto error = BatchOf(features, examples, values, n, &batch); error.failure()) return error;
  const float *w = weights.typed_data(), *c = bias.typed_data();
  float* out = scores->typed_data();
  Share(pool, n, Words(view, batch, n), [&, w, c, out](int64_t b) {
    sj::WideScores(view, w, c, batch, b, out + b * view.num_labels);
  });
  return ffi::Error::Success();
}

ffi::Error WideStepImpl(ffi::ThreadPool pool, I32 offsets, I32 labels, F32 weights, F32 slots,
                        F32 bias, F32 bias_slots, I32 features, I32 examples, F32 values,
                        I32 own_labels, I32 own_examples, F32 rate, OutF32 new_weights,
                        OutF32 new_slots, OutF32 new_bias, OutF32 new_bias_slots, OutF32 losses,
                        int64_t group) {
  sj::WideView view;
  sj::WideBatch batch;
  if (auto error = ViewOf(offsets, labels, weights, bias, &view); error.failure()) return error;
  if (!Shaped(slots, {view.num_weights})) return Bad("slots is not [num_weights]");
  if (!Shaped(bias_slots, {view.num_labels})) return Bad("bias_slots is not [num_labels]");
  if (!Shaped(own_labels, {-1}) ||
      !Shaped(own_examples, {static_cast<int64_t>(own_labels.element_count())})) {
    return Bad("label_ids and label_rows are not [entries]");
  }
  if (!Shaped(rate, {})) return Bad("learning_rate is not a scalar");
  if (!Shaped(*losses, {-1})) return Bad("losses is not [batch]");
  if (group < 1) return Bad("group is below 1");
  const int64_t n = losses->dimensions()[0];
  if (auto error = BatchOf(features, examples, values, n, &batch); error.failure()) return error;
  auto carry = [](const F32& from, OutF32& to) {
    if (from.typed_data() != to->typed_data()) {
      std::copy_n(from.typed_data(), from.element_count(), to->typed_data());
    }
  };
  carry(weights, new_weights);
  carry(slots, new_slots);
  carry(bias, new_bias);
  carry(bias_slots, new_bias_slots);

  const int64_t words = Words(view, batch, n) / std::max<int64_t>(1, (n + group - 1) / group);
  const sj::ByPosition own =
      sj::SortByPosition(own_examples.typed_data(), own_labels.element_count(), n);
  const int32_t* own_ids = own_labels.typed_data();
  const float learning_rate = *rate.typed_data();
  float *w = new_weights->typed_data(), *c = new_bias->typed_data(), *out = losses->typed_data();
  // Which task does what changes no bit, and each looks at all violations: no more than threads.
  const int64_t tasks = std::max<int64_t>(1, pool.num_threads());
  std::vector<sj::Violations> violations;
  for (int64_t first = 0; first < n; first += group) {
    const int64_t count = std::min(group, n - first);
    violations.assign(static_cast<size_t>(count), {});
    const std::vector<int32_t> hot = sj::HotLabels(c, view.num_labels);
    // All examples of the group by the weights before it; then the updates, in their order.
    Share(pool, count, words, [&](int64_t i) {
      thread_local sj::WideSums sums;
      std::vector<int32_t> labels;
      const int64_t b = first + i;
      for (int32_t k = own.starts[static_cast<size_t>(b)];
           k < own.starts[static_cast<size_t>(b) + 1]; ++k) {
        const int32_t label = own_ids[own.order[static_cast<size_t>(k)]];
        if (label >= 0 && label < view.num_labels) labels.push_back(label);
      }
      out[b] = 0;
      // Padding has neither labels nor features; a point without labels is a negative of all.
      if (labels.empty() && !HasFeature(view, batch, b)) return;
      out[b] = sj::WideViolations(view, w, c, batch, b, labels, hot, &sums,
                                  &violations[static_cast<size_t>(i)]);
    });
    Share(pool, tasks, words, [&](int64_t task) {
      thread_local std::vector<float> dense;
      sj::WideUpdateBias(violations, learning_rate, view.num_labels, task, tasks, c,
                         new_bias_slots->typed_data());
      sj::WideUpdate(view, batch, first, violations, learning_rate, task, tasks, &dense, w,
                     new_slots->typed_data());
    });
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(WideScores, WideScoresImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(WideStep, WideStepImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Arg<I32>()
                                  .Arg<I32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Attr<int64_t>("group"));
