// A loop whose caller works too, so that it ends even where no pool thread is ever free.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

namespace sparse_jax {

// Calls body(task) for task in [0, tasks), here and on what `schedule` starts elsewhere. Which
// thread runs a task is open; results may therefore depend on the task alone, never on the thread.
//
// Tasks that are queued but not begun when the caller runs out of work are never waited for: they
// find the counter spent and return. So a handler that itself runs on a pool thread can't deadlock.
template <typename Schedule, typename Body>
void ParallelFor(int64_t tasks, int64_t helpers, Schedule&& schedule, Body&& body) {
  if (tasks <= 1 || helpers <= 0) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
    int64_t tasks;
    std::function<void(int64_t)> body;
  };
  auto shared = std::make_shared<Shared>();
  shared->tasks = tasks;
  shared->body = std::forward<Body>(body);
  auto work = [shared] {
    for (int64_t task; (task = shared->next.fetch_add(1)) < shared->tasks;) {
      shared->body(task);
      shared->done.fetch_add(1, std::memory_order_release);
    }
  };
  if (helpers > tasks - 1) helpers = tasks - 1;
  for (int64_t i = 0; i < helpers; ++i) schedule(work);
  work();
  while (shared->done.load(std::memory_order_acquire) < tasks) std::this_thread::yield();
}

}  // namespace sparse_jax
