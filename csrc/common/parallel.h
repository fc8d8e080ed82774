// Parallel regions without a torch header, so that kernels compile and run outside PyTorch too.
//
// A region hands out coarse tasks dynamically: workers take the next index from a shared counter,
// so a slow task (or a core lent to another process) does not hold the others up.
#pragma once

#include <atomic>
#include <cstdint>

namespace fractalkern {

class Parallel {
 public:
  // `run(workers, body, context)` calls body(context) on up to `workers` threads and returns when
  // all are done. The caller's thread pool provides it.
  using Body = void (*)(const void* context);
  using Run = void (*)(int64_t workers, Body body, const void* context);

  Parallel(int64_t threads, Run run) : threads_(threads), run_(run) {}

  int64_t threads() const { return threads_; }

  // Calls task(index) once for each index in [0, tasks). `elements` is the total amount of work in
  // array elements: too little of it to pay for waking a thread runs on the caller's thread.
  // `task` must not throw.
  template <class Task>
  void for_each(int64_t tasks, int64_t elements, const Task& task) const {
    const int64_t useful = elements / kGrainElements;
    int64_t workers = threads_ < tasks ? threads_ : tasks;
    if (useful < workers) workers = useful;
    if (workers <= 1) {
      for (int64_t i = 0; i < tasks; ++i) task(i);
      return;
    }
    struct Context {
      const Task& task;
      const int64_t tasks;
      mutable std::atomic<int64_t> next;
    } context{task, tasks, {0}};
    run_(
        workers,
        [](const void* opaque) {
          const auto& shared = *static_cast<const Context*>(opaque);
          for (;;) {
            const int64_t i = shared.next.fetch_add(1, std::memory_order_relaxed);
            if (i >= shared.tasks) return;
            shared.task(i);
          }
        },
        &context);
  }

 private:
  // About 10 microseconds of the cheapest kernels: the cost of waking a thread.
  static constexpr int64_t kGrainElements = 1 << 16;

  int64_t threads_;
  Run run_;
};

}  // namespace fractalkern
