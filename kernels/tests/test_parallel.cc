// ParallelFor: each task exactly once, whatever the pool does with what it was given.
#include "sparse_jax/parallel.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "check.h"

namespace {

using sparse_jax::ParallelFor;

using Work = std::function<void()>;

struct Calls {
  std::vector<std::atomic<int>> of;
  explicit Calls(int64_t tasks) : of(static_cast<size_t>(tasks)) {}
  void operator()(int64_t task) { ++of.at(static_cast<size_t>(task)); }
  bool OnceEach() const {
    for (const auto& calls : of) {
      if (calls != 1) return false;
    }
    return true;
  }
};

void Threads() {
  for (const int64_t tasks : {0, 1, 2, 7, 1000}) {
    for (const int64_t helpers : {-1, 0, 1, 3, 16}) {
      Calls calls(tasks);
      std::vector<std::thread> threads;
      ParallelFor(
          tasks, helpers, [&](Work work) { threads.emplace_back(std::move(work)); },
          [&](int64_t task) { calls(task); });
      CHECK(calls.OnceEach());
      // Never more helpers than tasks can use.
      CHECK(static_cast<int64_t>(threads.size()) <= std::max<int64_t>(tasks - 1, 0));
      for (auto& thread : threads) thread.join();
      CHECK(calls.OnceEach());
    }
  }
}

// A pool with no free thread: the caller does it all, and what begins later finds nothing to do,
// though the body and all it refers to are gone.
void PoolNeverFree() {
  std::vector<Work> queued;
  {
    Calls calls(50);
    ParallelFor(
        50, 4, [&](Work work) { queued.push_back(std::move(work)); },
        [&](int64_t task) { calls(task); });
    CHECK(calls.OnceEach());
  }
  CHECK(queued.size() == 4);
  for (const Work& work : queued) work();
}

// A pool that runs at once in `schedule`: the helper does it all.
void PoolAtOnce() {
  Calls calls(50);
  ParallelFor(
      50, 2, [](Work work) { work(); }, [&](int64_t task) { calls(task); });
  CHECK(calls.OnceEach());
}

// Loops inside loops on a pool whose queue nobody serves.
void Nested() {
  Calls calls(30);
  const auto drop = [](const Work&) {};
  ParallelFor(5, 8, drop, [&](int64_t outer) {
    ParallelFor(6, 8, drop, [&, outer](int64_t inner) { calls(outer * 6 + inner); });
  });
  CHECK(calls.OnceEach());
}

// The caller sees what the helpers wrote.
void Writes() {
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> squares(200, -1);
    std::vector<std::thread> threads;
    ParallelFor(
        200, 3, [&](Work work) { threads.emplace_back(std::move(work)); },
        [&](int64_t task) { squares[static_cast<size_t>(task)] = task * task; });
    for (int64_t task = 0; task < 200; ++task) {
      CHECK(squares[static_cast<size_t>(task)] == task * task);
    }
    for (auto& thread : threads) thread.join();
  }
}

}  // namespace

int main() {
  Threads();
  PoolNeverFree();
  PoolAtOnce();
  Nested();
  Writes();
  std::puts("test_parallel: ok");
}
