// The instruction-set table, its selection at call time, and `Parallel`.
#include "common/instruction_set.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

struct SumArgs {
  const float* values;
  int64_t size;
  float* sum;
  int* vector_bytes;
};

// A struct, because GCC forgets a vector_size that depends on a function template's argument.
template <class Isa>
struct Floats {
  typedef float Vector __attribute__((vector_size(Isa::kVectorBytes)));
};

// Vectors as wide as the instruction set has them, as real kernel bodies use them.
template <class Isa>
FRACTALKERN_INLINE void sum_body(const SumArgs& args) {
  using Vector = typename Floats<Isa>::Vector;
  constexpr int64_t kLanes = Isa::kVectorBytes / sizeof(float);
  Vector lanes = {}, next;
  int64_t i = 0;
  for (; i + kLanes <= args.size; i += kLanes) {
    std::memcpy(&next, args.values + i, sizeof(next));
    lanes += next;
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  for (; i < args.size; ++i) sum += args.values[i];
  *args.sum = sum;
  *args.vector_bytes = Isa::kVectorBytes;
}

FRACTALKERN_ENTRY_POINTS(sum_entry, sum_body, SumArgs)

void test_best_supported_set_is_active_at_start() {
  const auto active = compiled_instruction_sets()[active_instruction_set()];
  CHECK(active == supported_instruction_sets().back(), active);
}

void test_supported_sets_are_a_subset_in_order() {
  const auto& compiled = compiled_instruction_sets();
  CHECK(compiled.front() == "baseline");
  auto position = compiled.begin();
  for (const auto& name : supported_instruction_sets()) {
    position = std::find(position, compiled.end(), name);
    CHECK(position != compiled.end(), name);
  }
}

void test_selected_entry_point_runs() {
  for_each_instruction_set([](const std::string& name) {
    for (int64_t size : {0, 1, 3, 15, 16, 17, 100}) {
      std::vector<float> values(size);  // exactly sized: a read past the end is an ASAN error
      for (int64_t i = 0; i < size; ++i) values[i] = static_cast<float>(i);
      float sum = -1;
      int vector_bytes = 0;
      sum_entry.active()({values.data(), size, &sum, &vector_bytes});
      const int expected = name == "x86-64-v4" ? 64 : name == "x86-64-v3" ? 32 : 16;
      CHECK(vector_bytes == expected, name, vector_bytes);
      CHECK(sum == static_cast<float>(size * (size - 1) / 2), name, size, sum);
    }
  });
}

void test_unknown_and_unsupported_names_are_refused() {
  const int before = active_instruction_set();
  std::vector<std::string> refused = {"", "avx2", "X86-64-V3"};
  for (const auto& name : compiled_instruction_sets()) {
    const auto supported = supported_instruction_sets();
    if (std::find(supported.begin(), supported.end(), name) == supported.end())
      refused.push_back(name);
  }
  for (const auto& name : refused) {
    std::string message;
    try {
      set_instruction_set(name);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    CHECK(message.find("'" + name + "'") != std::string::npos, name, message);
    CHECK(message.find("baseline") != std::string::npos, name, message);
  }
  CHECK(active_instruction_set() == before);
}

void test_parallel_runs_each_task_once() {
  for (int64_t threads : {1, 2, 5}) {
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      for (int64_t elements : {int64_t{0}, int64_t{1} << 30}) {
        std::vector<std::atomic<int>> runs(tasks);
        thread_parallel(threads).for_each(tasks, elements, [&](int64_t i) { ++runs[i]; });
        for (const auto& count : runs) CHECK(count == 1, threads, tasks, elements, count);
      }
    }
  }
}

void test_random_is_the_published_splitmix64() {
  Random random(1234567);
  CHECK(random.bits() == 6457827717110365317u);
  CHECK(random.bits() == 3203168211198807973u);
  double sum = 0, squares = 0;
  for (int i = 0; i < 10000; ++i) {
    const double value = random.normal();
    sum += value;
    squares += value * value;
  }
  CHECK(std::abs(sum / 10000) < 0.05, sum);
  CHECK(std::abs(squares / 10000 - 1) < 0.05, squares);
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  test_best_supported_set_is_active_at_start();
  test_supported_sets_are_a_subset_in_order();
  test_selected_entry_point_runs();
  test_unknown_and_unsupported_names_are_refused();
  test_parallel_runs_each_task_once();
  test_random_is_the_published_splitmix64();
  return testing_result();
}
