// The tables against brute force: random writes, both policies, ids and codes out of range.
#include "sparse_jax/tables.h"

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "check.h"

namespace {

using sparse_jax::kNone;
using sparse_jax::Policy;
using sparse_jax::Priority;
using sparse_jax::TablesView;

using Ints = std::vector<int32_t>;

// Owns the arrays, each of exactly its size, so that ASan sees a step past either end.
struct Tables {
  int64_t tables, num_buckets, capacity, num_rows;
  uint32_t seed;
  Policy policy;
  Ints buckets, sizes, codes, stamps;
  int32_t clock = 0;

  Tables(int64_t l, int64_t b, int64_t c, int64_t n, uint32_t s, Policy p)
      : tables(l), num_buckets(b), capacity(c), num_rows(n), seed(s), policy(p),
        buckets(static_cast<size_t>(l * b * c), kNone), sizes(static_cast<size_t>(l * b), 0),
        codes(static_cast<size_t>(l * n), kNone), stamps(static_cast<size_t>(n), 0) {}

  TablesView view() {
    return {buckets.data(), sizes.data(), codes.data(), stamps.data(), tables,
            num_buckets,    capacity,     num_rows,     seed,          policy};
  }

  void Build(const Ints& all_codes) {
    codes = all_codes;
    for (int64_t i = 0; i < num_rows; ++i) stamps[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    clock = static_cast<int32_t>(num_rows);
    for (int64_t l = 0; l < tables; ++l) BuildTable(view(), l);
  }

  int32_t Write(const Ints& ids, const Ints& fresh, bool restamp) {
    int32_t rejected = 0;
    const auto n = static_cast<int64_t>(ids.size());
    const auto writes = ResolveWrites(view(), ids.data(), fresh.data(), n, &rejected);
    if (restamp) {
      for (const auto& w : writes) {
        stamps[static_cast<size_t>(w.id)] = clock + static_cast<int32_t>(w.position);
      }
      clock += static_cast<int32_t>(n);
    }
    for (int64_t l = 0; l < tables; ++l) {
      WriteTable(view(), l, writes, fresh.data(), restamp && policy == Policy::kFifo);
    }
    return rejected;
  }
};

// What the state has to be, from codes and stamps alone.
void CheckContents(const Tables& t) {
  for (int64_t l = 0; l < t.tables; ++l) {
    for (int64_t b = 0; b < t.num_buckets; ++b) {
      Ints members;
      for (int64_t i = 0; i < t.num_rows; ++i) {
        if (t.codes[static_cast<size_t>(l * t.num_rows + i)] == b) {
          members.push_back(static_cast<int32_t>(i));
        }
      }
      std::sort(members.begin(), members.end(), [&](int32_t x, int32_t y) {
        if (t.policy == Policy::kFifo) {
          const int32_t sx = t.stamps[static_cast<size_t>(x)];
          const int32_t sy = t.stamps[static_cast<size_t>(y)];
          return sx != sy ? sx > sy : x > y;
        }
        const auto table = static_cast<uint32_t>(l);
        return Priority(t.seed, table, static_cast<uint32_t>(x)) <
               Priority(t.seed, table, static_cast<uint32_t>(y));
      });
      CHECK(t.sizes[static_cast<size_t>(l * t.num_buckets + b)] ==
            static_cast<int32_t>(members.size()));
      for (int64_t c = 0; c < t.capacity; ++c) {
        const int32_t want = c < static_cast<int64_t>(members.size())
                                 ? members[static_cast<size_t>(c)]
                                 : kNone;
        CHECK(t.buckets[static_cast<size_t>((l * t.num_buckets + b) * t.capacity + c)] == want);
      }
    }
  }
}

template <typename Count>
void CheckQueryBy(Tables& t, const Ints& queries, int64_t most) {
  const auto n = static_cast<int64_t>(queries.size()) / t.tables;
  Ints ids(static_cast<size_t>(n * most), 7), counts = ids, distinct(static_cast<size_t>(n), 7);
  // In two parts, as two threads would.
  const int64_t cut = n / 2;
  sparse_jax::CollisionCounter<Count> counter(t.num_rows);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, n}}) {
    Query(t.view(), queries.data(), begin, end, most, &counter, ids.data(), counts.data(),
          distinct.data());
  }
  for (int32_t id = 0; id < t.num_rows; ++id) CHECK(counter.count(id) == 0);
  for (int64_t q = 0; q < n; ++q) {
    std::map<int32_t, int32_t> found;
    for (int64_t l = 0; l < t.tables; ++l) {
      const int32_t code = queries[static_cast<size_t>(q * t.tables + l)];
      if (code < 0 || code >= t.num_buckets) continue;
      for (int64_t c = 0; c < t.capacity; ++c) {
        const int32_t id =
            t.buckets[static_cast<size_t>((l * t.num_buckets + code) * t.capacity + c)];
        if (id != kNone) ++found[id];
      }
    }
    std::vector<std::pair<int32_t, int32_t>> ranked;  // id, count
    for (const auto& entry : found) ranked.push_back(entry);
    std::sort(ranked.begin(), ranked.end(), [&](const auto& x, const auto& y) {
      if (x.second != y.second) return x.second > y.second;
      return Priority(t.seed, 0xffffffffu, static_cast<uint32_t>(x.first)) <
             Priority(t.seed, 0xffffffffu, static_cast<uint32_t>(y.first));
    });
    CHECK(distinct[static_cast<size_t>(q)] == static_cast<int32_t>(ranked.size()));
    for (int64_t i = 0; i < most; ++i) {
      const bool there = i < static_cast<int64_t>(ranked.size());
      const auto at = static_cast<size_t>(q * most + i);
      CHECK(ids[at] == (there ? ranked[static_cast<size_t>(i)].first : kNone));
      CHECK(counts[at] == (there ? ranked[static_cast<size_t>(i)].second : 0));
    }
  }
}

void CheckQuery(Tables& t, const Ints& queries, int64_t most) {
  CheckQueryBy<uint8_t>(t, queries, most);
  CheckQueryBy<uint32_t>(t, queries, most);
}

struct Random {
  std::mt19937 bits{20240607};

  int64_t Below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }

  // Mostly in [-1, end); now and then far outside.
  int32_t Around(int64_t end, bool wild) {
    static const int32_t kWild[] = {INT32_MIN, INT32_MIN + 1, -2, INT32_MAX, INT32_MAX - 1};
    if (wild && Below(10) == 0) return kWild[Below(5)];
    if (wild && Below(20) == 0) return static_cast<int32_t>(end);
    return static_cast<int32_t>(Below(end + 1) - 1);
  }

  Ints Many(int64_t n, int64_t end, bool wild) {
    Ints out(static_cast<size_t>(n));
    for (int32_t& x : out) x = Around(end, wild);
    return out;
  }
};

int32_t ExpectedRejections(const Tables& t, const Ints& ids, const Ints& fresh) {
  int32_t rejected = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == kNone) continue;
    bool valid = ids[i] >= 0 && ids[i] < t.num_rows;
    for (int64_t l = 0; l < t.tables; ++l) {
      const int32_t code = fresh[i * static_cast<size_t>(t.tables) + static_cast<size_t>(l)];
      valid = valid && code >= kNone && code < t.num_buckets;
    }
    rejected += !valid;
  }
  return rejected;
}

// The codes after the writes, one at a time in the order of the batch.
Ints ExpectedCodes(const Tables& t, const Ints& ids, const Ints& fresh) {
  Ints codes = t.codes;
  for (size_t i = 0; i < ids.size(); ++i) {
    const Ints one_id = {ids[i]};
    const auto begin = fresh.begin() + static_cast<std::ptrdiff_t>(i) * t.tables;
    const Ints one(begin, begin + t.tables);
    if (ids[i] == kNone || ExpectedRejections(t, one_id, one)) continue;
    for (int64_t l = 0; l < t.tables; ++l) {
      codes[static_cast<size_t>(l * t.num_rows + ids[i])] = one[static_cast<size_t>(l)];
    }
  }
  return codes;
}

void RandomOperations() {
  Random random;
  for (const Policy policy : {Policy::kReservoir, Policy::kFifo}) {
    for (int round = 0; round < 120; ++round) {
      const int64_t l = 1 + random.Below(3), b = 1 + random.Below(5), n = random.Below(31);
      const int64_t capacity = round % 3 == 0 ? 1 : 1 + random.Below(n + 3);
      Tables t(l, b, capacity, n, static_cast<uint32_t>(random.bits()), policy);
      CheckContents(t);
      CheckQuery(t, random.Many(l * 3, b, true), 4);
      for (int step = 0; step < 12; ++step) {
        if (random.Below(6) == 0) {
          Ints codes = random.Many(l * n, b, true);
          t.Build(codes);
          for (int32_t& code : codes) code = code < 0 || code >= b ? kNone : code;
          CHECK(t.codes == codes);
        } else {
          const int64_t batch = random.Below(9);
          const Ints ids = random.Many(batch, n, true);
          Ints fresh = random.Many(batch * l, b, random.Below(2) == 0);
          if (random.Below(4) == 0) std::fill(fresh.begin(), fresh.end(), kNone);
          const Ints want = ExpectedCodes(t, ids, fresh);
          const int32_t refused = ExpectedRejections(t, ids, fresh);
          CHECK(t.Write(ids, fresh, random.Below(2) == 0) == refused);
          CHECK(t.codes == want);
        }
        CheckContents(t);
        CheckQuery(t, random.Many(l * (1 + random.Below(4)), b, true), random.Below(2 * n + 2));
      }
    }
  }
}

// What waits outside a full bucket comes in when a place falls free.
void WaitingMembersComeIn() {
  for (const Policy policy : {Policy::kReservoir, Policy::kFifo}) {
    Tables t(1, 1, 1, 4, 3, policy);
    t.Build({0, 0, 0, 0});
    for (int32_t left = 4; left > 0; --left) {
      CHECK(t.sizes[0] == left);
      CHECK(t.buckets[0] != kNone);
      CHECK(t.Write({t.buckets[0]}, {kNone}, false) == 0);
      CheckContents(t);
    }
    CHECK(t.sizes[0] == 0 && t.buckets[0] == kNone);
  }
}

void ExtremeIds() {
  Tables t(2, 2, 2, 3, 0xffffffffu, Policy::kReservoir);
  const Ints ids = {INT32_MIN, INT32_MAX, -2, 3, 0, 1, -1};
  const Ints fresh = {0, 0, 0, 0, 0, 0, 0, 0, INT32_MAX, 0, 0, INT32_MIN, 0, 0};
  CHECK(t.Write(ids, fresh, true) == 6);
  CHECK(t.codes == Ints(6, kNone));
  CheckContents(t);
  CheckQuery(t, {INT32_MIN, INT32_MAX, -1, 2}, 3);
}

// What a damaged file may hold must not lead astray, whatever the answer.
void DamagedBuckets() {
  Tables t(2, 1, 300, 3, 5, Policy::kReservoir);
  std::fill(t.buckets.begin(), t.buckets.end(), 2);
  t.buckets[1] = INT32_MAX, t.buckets[2] = 3, t.buckets[3] = INT32_MIN;
  sparse_jax::CollisionCounter<uint8_t> counter(t.num_rows);
  Ints ids(4), counts(4), distinct(1);
  const Ints codes = {0, 0};
  Query(t.view(), codes.data(), 0, 1, 4, &counter, ids.data(), counts.data(), distinct.data());
  for (int32_t id : ids) CHECK(id == kNone || id == 2);
}

void NoRowsAndNoQueries() {
  Tables t(1, 1, 1, 0, 0, Policy::kFifo);
  t.Build({});
  CHECK(t.Write({0, -1}, {0, 0}, true) == 1);
  CheckContents(t);
  CheckQuery(t, {}, 2);
  CheckQuery(t, {0}, 0);
}

}  // namespace

int main() {
  RandomOperations();
  WaitingMembersComeIn();
  ExtremeIds();
  DamagedBuckets();
  NoRowsAndNoQueries();
  std::puts("test_tables: ok");
}
