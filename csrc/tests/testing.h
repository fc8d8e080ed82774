// What the stand-alone C++ tests share: counted checks, threads behind `Parallel`, random numbers.
//
// A test is one file csrc/tests/<name>_test.cpp with its own main():
//
//   int main() {
//     for_each_instruction_set([](const std::string& name) { CHECK(...); });
//     return testing_result();
//   }
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <numbers>
#include <string>
#include <thread>
#include <vector>

#include "common/instruction_set.h"
#include "common/parallel.h"

namespace fractalkern::testing {

inline std::atomic<int64_t> checks{0};
inline std::atomic<int64_t> failures{0};

// Counts a check; prints the first 20 failures only, as a broken kernel fails everywhere.
template <class... Details>
bool check(bool passed, const char* expression, const char* file, int line,
           const Details&... details) {
  ++checks;
  if (!passed && ++failures <= 20) {
    std::cerr << file << ':' << line << ": " << expression << " is false";
    ((std::cerr << "; " << details), ...);
    std::cerr << '\n';
  }
  return passed;
}

// The exit code of main(). A test that checked nothing has failed.
inline int testing_result() {
  std::cout << checks << " checks, " << failures << " failed\n";
  return checks > 0 && failures == 0 ? 0 : 1;
}

// A `Parallel` on `threads` fresh std::threads: the sanitizers see every one of them.
inline Parallel thread_parallel(int64_t threads) {
  return Parallel(threads, [](int64_t workers, Parallel::Body body, const void* context) {
    std::vector<std::thread> pool;
    for (int64_t i = 0; i < workers; ++i) pool.emplace_back(body, context);
    for (auto& thread : pool) thread.join();
  });
}

// Runs body(name) with each instruction set that this CPU supports selected.
template <class Body>
void for_each_instruction_set(const Body& body) {
  for (const auto& name : supported_instruction_sets()) {
    set_instruction_set(name);
    body(name);
  }
}

// SplitMix64: the same numbers on every machine and with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  // In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

  double uniform(double low, double high) { return low + (high - low) * uniform(); }

  // In [0, bound); the bias of the modulo does not matter to a test.
  int64_t below(int64_t bound) { return static_cast<int64_t>(bits() % uint64_t(bound)); }

  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t state_;
};

}  // namespace fractalkern::testing

// CHECK(condition) or CHECK(condition, values to print when it is false...).
#define CHECK(condition, ...)                                                       \
  ::fractalkern::testing::check(static_cast<bool>(condition), #condition, __FILE__, \
                                __LINE__ __VA_OPT__(, ) __VA_ARGS__)
