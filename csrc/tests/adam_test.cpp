// Checks a step of Adam against the same in long double, for every instruction set of this CPU and
// for 1 to 3 threads. Meant for sanitizers: every array has exactly its own length.
#include "adam/adam.h"

#include <cmath>
#include <string>
#include <vector>

#include "tests/testing.h"

namespace {

using fractalkern::AdamStep;
using fractalkern::kAdamNumbers;
using fractalkern::testing::Random;
using fractalkern::testing::thread_parallel;

template <class T>
void check_step(Random& random, int64_t rows, int64_t columns, int64_t threads,
                const std::string& name) {
  const auto drawn = [&](int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T& value : values) value = static_cast<T>(random.normal());
    return values;
  };
  std::vector<double> numbers(static_cast<size_t>(rows * kAdamNumbers));
  for (double& value : numbers) value = 0.01 + random.uniform();
  const std::vector<T> gradients = drawn(rows * columns), before = drawn(rows * columns),
                       first_before = drawn(rows * columns);
  std::vector<T> second_before = drawn(rows * columns);
  for (T& value : second_before) value *= value;
  std::vector<T> parameters = before, first = first_before, second = second_before;
  fractalkern::adam_step_cpu(AdamStep<T>{rows, columns, gradients.data(), parameters.data(),
                                         first.data(), second.data(), numbers.data()},
                             thread_parallel(threads));
  const long double tolerance = sizeof(T) == 4 ? 2e-6L : 1e-14L;
  const auto close = [&](T found, long double expected) {
    return std::abs(found - expected) <= tolerance * (1 + std::abs(expected));
  };
  for (size_t i = 0; i < parameters.size(); ++i) {
    const double* n = &numbers[i / static_cast<size_t>(columns) * kAdamNumbers];
    const long double p = before[i];
    const long double g = n[0] * static_cast<long double>(gradients[i]) + n[1] * p;
    const long double m = first_before[i] + n[3] * (g - first_before[i]);
    const long double v = n[4] * static_cast<long double>(second_before[i]) + n[5] * g * g;
    CHECK(close(first[i], m), name, i, first[i], m);
    CHECK(close(second[i], v), name, i, second[i], v);
    const long double stepped = n[2] * p - n[6] * m / (n[7] * std::sqrt(v) + n[8]);
    CHECK(close(parameters[i], stepped), name, i, parameters[i], stepped);
  }
}

}  // namespace

int main() {
  fractalkern::testing::for_each_instruction_set([](const std::string& name) {
    Random random(1);
    for (const int64_t columns : {1, 5, 16, 31, 20'011}) {
      for (int64_t threads = 1; threads <= 3; ++threads) {
        check_step<float>(random, 1 + threads, columns, threads, name);
        check_step<double>(random, 1 + threads, columns, threads, name);
      }
    }
  });
  return fractalkern::testing::testing_result();
}
