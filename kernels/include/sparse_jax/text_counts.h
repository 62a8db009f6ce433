// Counts of texts' features, on threads: hashed to a range of ids, of known features, or of those
// that enough texts hold. A thread takes a run of texts; what comes out doesn't depend on the runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "sparse_jax/parallel.h"
#include "sparse_jax/text_features.h"

namespace sparse_jax {
namespace text {

template <typename Body>
void RunOn(int64_t threads, int64_t tasks, Body&& body) {
  std::vector<std::thread> helpers;
  ParallelFor(
      tasks, threads - 1, [&](auto work) { helpers.emplace_back(std::move(work)); }, body);
  for (std::thread& helper : helpers) helper.join();
}

// Bounds of at most `runs` runs of texts of about as many bytes each.
inline std::vector<int64_t> CutRuns(const std::vector<Text>& texts, int64_t runs) {
  int64_t bytes = 0;
  for (const Text& text : texts) bytes += text.size + 1;
  const int64_t share = bytes / std::max<int64_t>(runs, 1) + 1;
  std::vector<int64_t> bounds{0};
  int64_t taken = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    taken += texts[i].size + 1;
    if (taken >= share || i + 1 == texts.size()) {
      bounds.push_back(int64_t(i) + 1);
      taken = 0;
    }
  }
  return bounds;
}

// Distinct ids of one text, ascending, with their counts, from ids with repeats.
inline void AppendCounts(std::vector<uint32_t>* found, TextCounts* out) {
  std::sort(found->begin(), found->end());
  for (size_t i = 0; i < found->size();) {
    const uint32_t id = (*found)[i];
    const size_t first = i;
    while (i < found->size() && (*found)[i] == id) ++i;
    out->ids.push_back(int32_t(id));
    out->counts.push_back(float(i - first));
  }
  out->offsets.push_back(int64_t(out->ids.size()));
}

inline TextCounts Join(std::vector<TextCounts>* parts) {
  TextCounts all;
  all.offsets.push_back(0);
  for (TextCounts& part : *parts) {
    const int64_t start = int64_t(all.ids.size());
    for (const int64_t offset : part.offsets) all.offsets.push_back(start + offset);
    all.ids.insert(all.ids.end(), part.ids.begin(), part.ids.end());
    all.counts.insert(all.counts.end(), part.counts.begin(), part.counts.end());
    part = TextCounts();
  }
  return all;
}

// Counts by the id that id_of(key) gives a feature; those below 0 are left out.
template <typename IdOf>
TextCounts CountBy(const std::vector<Text>& texts, const TextOptions& options, int64_t threads,
                   IdOf&& id_of) {
  const std::vector<int64_t> bounds = CutRuns(texts, threads <= 1 ? 1 : 4 * threads);
  std::vector<TextCounts> parts(bounds.size() - 1);
  RunOn(threads, int64_t(parts.size()), [&](int64_t run) {
    TextCounts& part = parts[size_t(run)];
    Reader reader(options);
    std::vector<uint32_t> found;
    for (int64_t t = bounds[size_t(run)]; t < bounds[size_t(run) + 1]; ++t) {
      found.clear();
      for (const Feature& feature : reader.Read(texts[size_t(t)])) {
        const int64_t id = id_of(feature.key);
        if (id >= 0) found.push_back(uint32_t(id));
      }
      AppendCounts(&found, &part);
    }
  });
  return Join(&parts);
}

// A feature of a text, by a thread's number, and how often.
struct Entry {
  int32_t number;
  uint32_t count;
};

// What one thread found in its run: features by local number, and counts by those.
struct Local {
  std::vector<uint64_t> keys;
  std::string names;
  std::vector<int64_t> name_offsets{0};
  std::vector<int64_t> row_ends;
  std::vector<Entry> entries;

  void Read(const std::vector<Text>& texts, int64_t first, int64_t last,
            const TextOptions& options) {
    constexpr size_t kAhead = 8;
    Reader reader(options);
    KeyTable table;
    std::vector<int64_t> places;  // of each feature's last entry
    for (int64_t t = first; t < last; ++t) {
      const int64_t start = int64_t(entries.size());
      const std::vector<Feature>& features = reader.Read(texts[size_t(t)]);
      for (size_t i = 0; i < features.size(); ++i) {
        if (i + kAhead < features.size()) table.PrefetchAt(features[i + kAhead].key);
        const int32_t number = table.FindOrAdd(features[i].key);
        if (size_t(number) == keys.size()) {
          keys.push_back(features[i].key);
          reader.AppendName(features[i], &names);
          name_offsets.push_back(int64_t(names.size()));
          places.push_back(-1);
        }
        int64_t& place = places[size_t(number)];
        if (place >= start) {
          ++entries[size_t(place)].count;
        } else {
          place = int64_t(entries.size());
          entries.push_back({number, 1});
        }
      }
      row_ends.push_back(int64_t(entries.size()));
    }
  }

  // Texts that hold each feature.
  std::vector<int64_t> Frequencies() const {
    std::vector<int64_t> found(keys.size());
    for (const Entry& entry : entries) ++found[size_t(entry.number)];
    return found;
  }
};

struct Name {
  const char* data;
  size_t size;

  bool operator<(const Name& other) const {
    const int order = std::memcmp(data, other.data, std::min(size, other.size));
    return order ? order < 0 : size < other.size;
  }
};

// Joins what the threads found, and gives ids to the features that are kept: to each thread's
// features, or -1.
inline std::vector<std::vector<int32_t>> Select(const std::vector<Local>& locals,
                                                int64_t min_count, int64_t max_features,
                                                TextVocabulary* out) {
  int64_t most = 0;
  for (const Local& local : locals) most = std::max(most, int64_t(local.keys.size()));
  KeyTable table(most);
  std::vector<int64_t> frequencies;
  std::vector<Name> names;
  std::vector<uint64_t> keys;
  std::vector<std::vector<int32_t>> numbers(locals.size());
  for (size_t l = 0; l < locals.size(); ++l) {
    const Local& local = locals[l];
    const std::vector<int64_t> of_local = local.Frequencies();
    numbers[l].resize(local.keys.size());
    for (size_t i = 0; i < local.keys.size(); ++i) {
      const int32_t number = table.FindOrAdd(local.keys[i]);
      if (size_t(number) == keys.size()) {
        keys.push_back(local.keys[i]);
        frequencies.push_back(0);
        names.push_back({local.names.data() + local.name_offsets[i],
                         size_t(local.name_offsets[i + 1] - local.name_offsets[i])});
      }
      frequencies[size_t(number)] += of_local[i];
      numbers[l][i] = number;
    }
  }
  std::vector<int32_t> order;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (frequencies[i] >= min_count) order.push_back(int32_t(i));
  }
  const auto before = [&](int32_t a, int32_t b) {
    const int64_t fa = frequencies[size_t(a)], fb = frequencies[size_t(b)];
    return fa != fb ? fa > fb : names[size_t(a)] < names[size_t(b)];
  };
  if (max_features < int64_t(order.size())) {
    std::nth_element(order.begin(), order.begin() + max_features, order.end(), before);
    order.resize(size_t(max_features));
  }
  std::sort(order.begin(), order.end(), before);
  std::vector<int32_t> ids(keys.size(), -1);
  out->name_offsets.push_back(0);
  for (size_t id = 0; id < order.size(); ++id) {
    const size_t i = size_t(order[id]);
    ids[i] = int32_t(id);
    out->keys.push_back(keys[i]);
    out->frequencies.push_back(frequencies[i]);
    out->names.append(names[i].data, names[i].size);
    out->name_offsets.push_back(int64_t(out->names.size()));
  }
  for (auto& of_local : numbers) {
    for (int32_t& number : of_local) number = ids[size_t(number)];
  }
  return numbers;
}

// A thread's counts by final ids, sorted in each text: by a pass in the order of ids, which appends
// each to its texts.
inline TextCounts Renumber(const Local& local, const std::vector<int32_t>& ids, int64_t num_ids) {
  const int64_t rows = int64_t(local.row_ends.size());
  TextCounts out;
  std::vector<int64_t> ends(size_t(num_ids) + 1);  // of each id's texts
  int64_t at = 0, kept = 0;
  for (const int64_t end : local.row_ends) {
    for (; at < end; ++at) {
      const int32_t id = ids[size_t(local.entries[size_t(at)].number)];
      if (id >= 0) ++ends[size_t(id) + 1], ++kept;
    }
    out.offsets.push_back(kept);
  }
  for (int64_t id = 0; id < num_ids; ++id) ends[size_t(id) + 1] += ends[size_t(id)];
  struct Occurrence {
    int32_t row;
    uint32_t count;
  };
  std::vector<Occurrence> by_id(static_cast<size_t>(kept));
  std::vector<int64_t> next(ends.begin(), ends.end() - 1);
  at = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (; at < local.row_ends[size_t(row)]; ++at) {
      const Entry& entry = local.entries[size_t(at)];
      const int32_t id = ids[size_t(entry.number)];
      if (id >= 0) by_id[size_t(next[size_t(id)]++)] = {int32_t(row), entry.count};
    }
  }
  std::vector<int64_t> places(static_cast<size_t>(rows));
  for (int64_t row = 1; row < rows; ++row) places[size_t(row)] = out.offsets[size_t(row) - 1];
  out.ids.resize(size_t(kept));
  out.counts.resize(size_t(kept));
  for (int64_t id = 0; id < num_ids; ++id) {
    for (int64_t i = ends[size_t(id)]; i < ends[size_t(id) + 1]; ++i) {
      const int64_t place = places[size_t(by_id[size_t(i)].row)]++;
      out.ids[size_t(place)] = int32_t(id);
      out.counts[size_t(place)] = float(by_id[size_t(i)].count);
    }
  }
  return out;
}

inline TextCounts CountAndKeep(const std::vector<Text>& texts, const TextOptions& options,
                               int64_t min_count, int64_t max_features, int64_t threads,
                               TextVocabulary* vocabulary) {
  const std::vector<int64_t> bounds = CutRuns(texts, threads);
  std::vector<Local> locals(bounds.size() - 1);
  RunOn(threads, int64_t(locals.size()), [&](int64_t run) {
    locals[size_t(run)].Read(texts, bounds[size_t(run)], bounds[size_t(run) + 1], options);
  });
  const auto ids = Select(locals, min_count, max_features, vocabulary);
  std::vector<TextCounts> parts(locals.size());
  RunOn(threads, int64_t(locals.size()), [&](int64_t run) {
    parts[size_t(run)] =
        Renumber(locals[size_t(run)], ids[size_t(run)], int64_t(vocabulary->keys.size()));
  });
  return Join(&parts);
}

}  // namespace text
}  // namespace sparse_jax
