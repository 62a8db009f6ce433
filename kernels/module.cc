// The Python module: capsules of the XLA handlers, the FFI version they were built against, and the
// text parser. The only file that knows nanobind.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <utility>
#include <vector>

#include "handlers/handlers.h"
#include "sparse_jax/label_tree.h"
#include "sparse_jax/minhash.h"
#include "sparse_jax/partition_tile.h"
#include "sparse_jax/text_features.h"
#include "sparse_jax/wide.h"
#include "sparse_jax/xmc_parser.h"

namespace nb = nanobind;

namespace {

template <typename Handler>
nb::capsule Capsule(Handler* handler) {
  return nb::capsule(reinterpret_cast<void*>(handler));
}

// A NumPy array that owns the vector's memory.
template <typename T>
nb::object Array(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(owned->data(), {owned->size()}, owner));
}

nb::tuple ParseXmc(nb::bytes content) {
  sparse_jax::XmcArrays out;
  sparse_jax::XmcStatus status;
  {
    nb::gil_scoped_release released;
    status = sparse_jax::ParseXmc(static_cast<const char*>(content.data()), content.size(), &out);
  }
  if (!status.ok) {
    throw nb::value_error(("line " + std::to_string(status.line) + ": " + status.message).c_str());
  }
  return nb::make_tuple(Array(std::move(out.feature_offsets)), Array(std::move(out.feature_ids)),
                        Array(std::move(out.feature_values)), Array(std::move(out.label_offsets)),
                        Array(std::move(out.label_ids)), out.num_points, out.num_features,
                        out.num_labels);
}

template <typename T>
using InArray = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
sparse_jax::Span<T> SpanOf(const InArray<T>& array) {
  return {array.data(), array.size()};
}

// By feature, the labels of more than `min_share` of the points that hold it. Every argument is
// checked: they come from Python.
nb::tuple CoOccurring(InArray<int64_t> feature_offsets, InArray<int32_t> feature_ids,
                      InArray<int64_t> label_offsets, InArray<int32_t> label_ids,
                      int64_t num_features, int64_t num_labels, double min_share) {
  std::vector<int32_t> offsets, labels;
  const std::string problem = sparse_jax::CoOccurring(
      SpanOf(feature_offsets), SpanOf(feature_ids),
      SpanOf(label_offsets), SpanOf(label_ids),
      num_features, num_labels, min_share, &offsets, &labels);
  if (!problem.empty()) throw nb::value_error(problem.c_str());
  return nb::make_tuple(Array(std::move(offsets)), Array(std::move(labels)));
}

// One level of a label tree: features, children and weights that are kept, and the biases.
nb::tuple FitTreeLevel(InArray<int64_t> feature_offsets, InArray<int32_t> feature_ids,
                       InArray<float> feature_values, int64_t num_features,
                       InArray<int64_t> member_offsets, InArray<int32_t> members,
                       InArray<int64_t> child_offsets, InArray<int64_t> positive_offsets,
                       InArray<int32_t> positives, float cost, int64_t iterations, float tolerance,
                       float prune, uint32_t seed, int64_t threads) {
  const sparse_jax::SparsePoints points = {SpanOf(feature_offsets), SpanOf(feature_ids),
                                           feature_values.data(), num_features};
  const sparse_jax::TreeLevel level = {SpanOf(member_offsets), SpanOf(members),
                                       SpanOf(child_offsets), SpanOf(positive_offsets),
                                       SpanOf(positives)};
  if (feature_values.size() != feature_ids.size()) {
    throw nb::value_error("feature_values has not the length of feature_ids");
  }
  if (const auto problem = sparse_jax::CheckTreeLevel(points, level); !problem.empty()) {
    throw nb::value_error(problem.c_str());
  }
  const sparse_jax::SvmOptions options = {cost, iterations, tolerance, prune, seed};
  std::vector<float> bias(static_cast<size_t>(level.num_children()), 0.0f);
  sparse_jax::NodeWeights kept;
  {
    nb::gil_scoped_release released;
    kept = sparse_jax::FitTreeLevel(points, level, options, threads, bias.data());
  }
  return nb::make_tuple(Array(std::move(kept.features)), Array(std::move(kept.children)),
                        Array(std::move(kept.weights)), Array(std::move(bias)));
}

// Texts of a tuple of strings, which must outlive them.
std::vector<sparse_jax::Text> TextsOf(const nb::tuple& texts) {
  std::vector<sparse_jax::Text> found;
  found.reserve(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(nb::object(texts[i]).ptr(), &size);
    if (!data) throw nb::python_error();
    if (size >= (Py_ssize_t(1) << 30)) throw nb::value_error("a text is longer than 2^30 bytes");
    found.push_back({data, int64_t(size)});
  }
  return found;
}

nb::tuple Arrays(sparse_jax::TextCounts&& counts) {
  return nb::make_tuple(Array(std::move(counts.offsets)), Array(std::move(counts.ids)),
                        Array(std::move(counts.counts)));
}

nb::tuple HashTexts(nb::tuple texts, bool words, bool pairs, int64_t low,
                    int64_t high, int64_t num_features, int64_t threads) {
  const auto views = TextsOf(texts);
  if (num_features < 1) throw nb::value_error("num_features is below 1");
  sparse_jax::TextCounts counts;
  {
    nb::gil_scoped_release released;
    counts = sparse_jax::HashTexts(views, {words, pairs, low, high}, num_features, threads);
  }
  return Arrays(std::move(counts));
}

nb::tuple CountKnown(nb::tuple texts, bool words, bool pairs,
                     int64_t low, int64_t high, InArray<uint64_t> keys, int64_t threads) {
  const auto views = TextsOf(texts);
  sparse_jax::TextCounts counts;
  {
    nb::gil_scoped_release released;
    counts = sparse_jax::CountKnown(views, {words, pairs, low, high}, keys.data(),
                                    int64_t(keys.size()), threads);
  }
  return Arrays(std::move(counts));
}

// Keys, frequencies, names one after the other, where they begin, and the counts' arrays.
nb::tuple FitVocabulary(nb::tuple texts, bool words, bool pairs,
                        int64_t low, int64_t high, int64_t min_count, int64_t max_features,
                        int64_t threads) {
  const auto views = TextsOf(texts);
  sparse_jax::TextVocabulary found;
  sparse_jax::TextCounts counts;
  {
    nb::gil_scoped_release released;
    counts = sparse_jax::FitVocabulary(views, {words, pairs, low, high}, min_count, max_features,
                                       threads, &found);
  }
  return nb::make_tuple(Array(std::move(found.keys)), Array(std::move(found.frequencies)),
                        nb::bytes(found.names.data(), found.names.size()),
                        Array(std::move(found.name_offsets)), Arrays(std::move(counts)));
}

void CheckSets(const InArray<int64_t>& offsets, const InArray<int32_t>& ids) {
  if (!sparse_jax::Ascends(SpanOf(offsets), ids.size())) {
    throw nb::value_error("offsets don't ascend from 0 to the number of ids");
  }
}

// Codes of sets, by set and table.
nb::object MinHashCodes(InArray<int64_t> offsets, InArray<int32_t> ids, uint32_t first_word,
                        uint32_t second_word, InArray<uint32_t> salts, InArray<int32_t> strides,
                        int64_t bits, int64_t prime, int64_t threads) {
  CheckSets(offsets, ids);
  const int64_t tables = int64_t(salts.size());
  const int64_t hashes = tables ? int64_t(strides.size()) / tables : 0;
  if (hashes < 1 || hashes * tables != int64_t(strides.size()) || bits < 1 || bits > 31 ||
      prime < hashes * tables || hashes * tables > (int64_t(1) << 30)) {
    throw nb::value_error("parameters of another MinHash");
  }
  for (size_t i = 0; i < strides.size(); ++i) {
    if (strides.data()[i] < 1 || strides.data()[i] >= prime) {
      throw nb::value_error("a stride is out of range");
    }
  }
  const sparse_jax::MinHashParams params = {
      {first_word, second_word}, salts.data(), strides.data(), tables, hashes, bits};
  std::vector<int32_t> codes;
  {
    nb::gil_scoped_release released;
    codes = sparse_jax::MinHashCodes(offsets.data(), int64_t(offsets.size()) - 1, ids.data(),
                                     params, prime, threads);
  }
  return Array(std::move(codes));
}

// Numbers and similarities of what each of some sets is like.
nb::tuple AddSets(sparse_jax::SetMatcher& matcher, InArray<int64_t> offsets, InArray<int32_t> ids,
                  InArray<int32_t> codes) {
  CheckSets(offsets, ids);
  const size_t sets = offsets.size() - 1;
  if (codes.size() != sets * size_t(matcher.tables())) {
    throw nb::value_error("codes are not one for each set and table");
  }
  std::vector<int64_t> numbers(sets);
  std::vector<double> similarities(sets);
  {
    nb::gil_scoped_release released;
    matcher.AddAll(offsets.data(), int64_t(sets), ids.data(), codes.data(), numbers.data(),
                   similarities.data());
  }
  return nb::make_tuple(Array(std::move(numbers)), Array(std::move(similarities)));
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.attr("FFI_API_VERSION") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.def("handlers", [] {
    nb::dict handlers;
    handlers["sparse_jax_tables_build"] = Capsule(TablesBuild);
    handlers["sparse_jax_tables_write"] = Capsule(TablesWrite);
    handlers["sparse_jax_tables_query"] = Capsule(TablesQuery);
    handlers["sparse_jax_unique_ids"] = Capsule(UniqueIds);
    handlers["sparse_jax_bag_forward"] = Capsule(BagForward);
    handlers["sparse_jax_bag_backward"] = Capsule(BagBackward);
    handlers["sparse_jax_wide_scores"] = Capsule(WideScores);
    handlers["sparse_jax_wide_step"] = Capsule(WideStep);
    handlers["sparse_jax_tree_scores"] = Capsule(TreeScores);
    handlers["sparse_jax_ensemble_topk"] = Capsule(EnsembleTopK);
    handlers["sparse_jax_topk_run"] = Capsule(TopKRun);
    handlers["sparse_jax_topk_among"] = Capsule(TopKAmong);
    handlers["sparse_jax_mach_topk"] = Capsule(MachTopK);
    handlers["sparse_jax_quantized_scan"] = Capsule(QuantizedScan);
    handlers["sparse_jax_split_columns"] = Capsule(SplitColumns);
    handlers["sparse_jax_softmax_loss"] = Capsule(SoftmaxLoss);
    handlers["sparse_jax_log_partition"] = Capsule(LogPartition);
    handlers["sparse_jax_adam_rows"] = Capsule(AdamRows);
    handlers["sparse_jax_adam_rows_added"] = Capsule(AdamRowsAdded);
    handlers["sparse_jax_add_rows"] = Capsule(AddRows);
    handlers["sparse_jax_active_sets"] = Capsule(ActiveSets);
    handlers["sparse_jax_take_bf16"] = Capsule(TakeBf16);
    handlers["sparse_jax_add_bf16"] = Capsule(AddBf16);
    return handlers;
  });
  m.def("co_occurring", &CoOccurring, "Offsets by feature, and the labels that occur with it.");
  m.def("count_known_texts", &CountKnown, "Counts of known features of texts.");
  m.def("fit_texts", &FitVocabulary, "The features that enough texts hold, and their counts.");
  m.def("hash_texts", &HashTexts, "Counts of hashed features of texts.");
  m.def("minhash_codes", &MinHashCodes, "Codes of sets, by set and table.");
  nb::class_<sparse_jax::SetMatcher>(m, "SetMatcher", "Sets so far, and which a new one is like.")
      .def(nb::init<int64_t, double, int64_t>())
      .def("add", &AddSets, "Numbers and similarities of what each of some sets is like.");
  m.def("fit_tree_level", &FitTreeLevel, "Linear classifiers of a level of a label tree.");
  m.def("fast_partition", &sparse_jax::FastPartition, "Whether sums of exponentials are fast here.");
  m.def("parse_xmc", &ParseXmc, "The arrays of a file in the XMC text format, from its bytes.");
}
