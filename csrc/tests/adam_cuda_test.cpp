// A step of Adam in CUDA, run on the CPU under several schedules: the bits of the CPU kernel where
// that one has a multiply-add, its numbers to rounding where not. Every array has exactly its own
// length.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "adam/adam.h"
#include "tests/cuda_on_host.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

template <class T>
bool same_number(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (std::isnan(a) && std::isnan(b));
}

template <class T>
bool close(T a, T b) {
  const T tolerance = sizeof(T) == 4 ? T(2e-6) : T(1e-14);
  return same_number(a, b) || std::abs(a - b) <= tolerance * (1 + std::abs(b));
}

// The arrays of a step; each begins `shift` elements behind a multiple of 16 bytes.
template <class T>
struct Arrays {
  int64_t rows, columns, shift;
  std::vector<T> gradients, parameters, first, second;
  std::vector<double> numbers;

  AdamStep<T> step() {
    return {rows,
            columns,
            gradients.data() + shift,
            parameters.data() + shift,
            first.data() + shift,
            second.data() + shift,
            numbers.data()};
  }
};

template <class T>
Arrays<T> drawn(Random& random, int64_t rows, int64_t columns, int64_t shift) {
  const auto values = [&] {
    std::vector<T> result(static_cast<size_t>(shift + rows * columns));
    for (T& value : result) value = static_cast<T>(random.normal());
    return result;
  };
  Arrays<T> arrays{rows, columns, shift, values(), values(), values(), values(), {}};
  for (T& value : arrays.second) value *= value;
  // Numbers no product or sum of which is exact.
  for (int64_t i = 0; i < rows * kAdamNumbers; ++i)
    arrays.numbers.push_back(0.01 + random.uniform());
  return arrays;
}

template <class T>
void compare(const Arrays<T>& before, const std::string& name) {
  Arrays<T> expected = before;
  adam_step_cpu(expected.step(), thread_parallel(1));
  const auto equal = [&](T found, T wanted) {
    return name == "baseline" ? close(found, wanted) : same_number(found, wanted);
  };
  for (uint64_t schedule = 0; schedule < 3; ++schedule) {
    cuda_on_host::schedule = schedule;
    Arrays<T> ours = before;
    adam_step_cuda(ours.step(), {});
    for (size_t i = 0; i < ours.first.size(); ++i) {
      CHECK(same_number(ours.gradients[i], before.gradients[i]), name, i);
      CHECK(equal(ours.parameters[i], expected.parameters[i]), name, before.columns, i,
            ours.parameters[i], expected.parameters[i]);
      CHECK(equal(ours.first[i], expected.first[i]), name, i, ours.first[i], expected.first[i]);
      CHECK(equal(ours.second[i], expected.second[i]), name, i, ours.second[i], expected.second[i]);
    }
  }
}

// Rows of one piece and of several, aligned or not, and more pieces than blocks.
template <class T>
void test_steps_are_those_of_the_cpu(const std::string& name) {
  Random random(1);
  for (const int64_t columns : {0, 1, 4, 5, 16, 126, 2048, 4112, 5003})
    for (const int64_t rows : {1, 3})
      for (const int64_t shift : {0, 1}) compare(drawn<T>(random, rows, columns, shift), name);
  compare(drawn<T>(random, 0, 16, 0), name);
  compare(drawn<T>(random, 500, 4, 0), name);
  compare(drawn<T>(random, 400, 3, 0), name);
}

// A run that has diverged, and numbers too small to be normal, as on the CPU.
template <class T>
void test_numbers_at_the_ends_of_the_range(const std::string& name) {
  using Limits = std::numeric_limits<T>;
  const T values[] = {0,
                      -T(0),
                      1,
                      Limits::infinity(),
                      -Limits::infinity(),
                      Limits::quiet_NaN(),
                      Limits::max(),
                      Limits::min() / 3,
                      Limits::denorm_min()};
  Random random(2);
  Arrays<T> arrays = drawn<T>(random, 2, 512, 0);
  const auto some = [&] { return values[random.below(std::size(values))]; };
  for (int64_t i = 0; i < 512; ++i) {
    arrays.gradients[i] = some();
    arrays.parameters[i] = some();
    arrays.first[i] = some();
    arrays.second[i] = std::abs(some());
  }
  compare(arrays, name);
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  for_each_instruction_set([](const std::string& name) {
    test_steps_are_those_of_the_cpu<float>(name);
    test_steps_are_those_of_the_cpu<double>(name);
    test_numbers_at_the_ends_of_the_range<float>(name);
    test_numbers_at_the_ends_of_the_range<double>(name);
  });
  return testing_result();
}
