// Runs the CUDA kernels of box_mass and gliding_mass on the CPU, under several schedules, against
// box_mass_cpu and gliding_mass_cpu.
#include <cstdint>
#include <vector>

#include "box_mass/box_mass.h"
#include "common/boxes.h"
#include "common/cuda_launch.h"
#include "tests/box_mass_problems.h"
#include "tests/cuda_stream_on_host.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int kProblems = 60;

void check_masses(const OwnedWeights& p, uint64_t schedule) {
  BoxMass grids{p.weights(), p.sizes.data(), static_cast<int64_t>(p.sizes.size()), p.offsets,
                nullptr};
  const int64_t boxes =
      box_mass_boxes(grids.weights.dims, p.shape.data(), grids.sizes, grids.size_count, p.offsets);
  // The bits of int64 or double: weights are whole numbers, so both add up exactly.
  std::vector<int64_t> expected(static_cast<size_t>(p.batch * boxes), -1), masses = expected;
  grids.masses = expected.data();
  box_mass_cpu(grids, thread_parallel(1));
  grids.masses = masses.data();
  cuda_on_host::schedule = schedule;
  box_mass_cuda(grids, cuda_on_host::stream_with_scratch());
  CHECK(masses == expected, p.describe(), "schedule", schedule);
}

void check_moments(const OwnedWeights& p, uint64_t schedule) {
  if (p.type == WeightType::kDouble) return;
  const auto size_count = static_cast<int64_t>(p.sizes.size());
  std::vector<int64_t> expected(static_cast<size_t>(4 * p.batch * size_count), -1),
      moments = expected;
  gliding_mass_cpu({p.weights(), p.sizes.data(), size_count, expected.data()}, thread_parallel(1));
  cuda_on_host::schedule = schedule;
  gliding_mass_cuda({p.weights(), p.sizes.data(), size_count, moments.data()},
                    cuda_on_host::stream_with_scratch());
  CHECK(moments == expected, p.describe(), "schedule", schedule);
}

void check_problem(const OwnedWeights& p, uint64_t schedule) {
  check_masses(p, schedule);
  check_moments(p, schedule);
}

// Boxes for teams of a thread, a warp and a block; nested sizes, rows of several chunks.
void test_fixed_problems() {
  Random random(11);
  const auto make = [&](WeightType type, int64_t batch, std::vector<int64_t> shape,
                        std::vector<int64_t> sizes, int64_t offsets) {
    OwnedWeights p{type, batch, std::move(shape), std::move(sizes), offsets, {}, {}, {}};
    for (int64_t i = 0; i < batch * p.cells(); ++i) {
      p.bytes.push_back(static_cast<uint8_t>(random.below(256)));
      p.integers.push_back(random.below(1000) - 500);
      p.doubles.push_back(static_cast<double>(random.below(1000) - 500));
    }
    return p;
  };
  uint64_t schedule = 0;
  for (const WeightType type : {WeightType::kByte, WeightType::kInt64, WeightType::kDouble}) {
    check_problem(make(type, 1, {10007}, {1, 64, 65, 4097, 5000, 10007}, 1), schedule++);
    check_problem(make(type, 2, {70, 90}, {1, 2, 4, 8, 16, 32, 64}, 1), schedule++);
    check_problem(make(type, 1, {70, 67}, {4, 8, 9, 67}, 4), schedule++);
    check_problem(make(type, 3, {9, 33}, {3, 6, 9}, 0), schedule++);
    check_problem(make(type, 1, {18, 20, 17}, {2, 4, 8, 17}, 2), schedule++);
    check_problem(make(type, 0, {5, 5}, {1, 2}, 1), schedule++);
  }
}

void test_boxes_before() {
  for (int64_t cells = 1; cells <= 12; ++cells) {
    for (int64_t size = 1; size <= 14; ++size) {
      for (int64_t count = 1; count <= size; ++count) {
        int64_t boxes = 0;
        for (int64_t j = 0; j <= count; ++j) {
          CHECK(boxes_before(j, cells, size, count) == boxes, j, cells, size, count);
          boxes += ceil_div(cells + box_origin(j, size, count), size);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  test_boxes_before();
  test_fixed_problems();
  Random random(21);
  for (int i = 0; i < kProblems; ++i)
    check_problem(random_weights(random), static_cast<uint64_t>(i % 4));
  return testing_result();
}
