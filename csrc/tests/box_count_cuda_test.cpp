// Runs the CUDA kernels of box_count on the CPU, under several schedules, against box_count_cpu.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "box_count/box_count.h"
#include "common/cuda_launch.h"
#include "tests/box_count_problems.h"
#include "tests/cuda_stream_on_host.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int kProblems = 150;

void check_problem(OwnedBoxCount& owned, uint64_t schedule, const std::string& what) {
  box_count_cpu(owned.problem, thread_parallel(1));
  const std::vector<int64_t> expected = owned.counts;
  owned.counts.assign(expected.size(), -1);
  cuda_on_host::schedule = schedule;
  box_count_cuda(owned.problem, cuda_on_host::stream_with_scratch());
  CHECK(owned.counts == expected, what, describe(owned.problem), "schedule", schedule);
}

void test_random_problems() {
  Random random(20260301);
  for (int i = 0; i < kProblems; ++i) {
    OwnedBoxCount owned = random_box_count(random);
    check_problem(owned, static_cast<uint64_t>(i % 4), "random");
  }
}

struct Fixed {
  int64_t batch;
  std::vector<int64_t> shape, sizes;
  int64_t offsets, shift;
};

// Nested squares, cubes and so on with a few stray cells: boxes of every size are found full, mixed
// and empty.
void check_fixed(const Fixed& fixed, uint64_t schedule) {
  for (const bool mixed : {false, true}) {
    for (const bool crop : {false, true}) {
      OwnedBoxCount owned;
      BoxCount& p = owned.problem;
      p.batch = fixed.batch;
      p.dims = static_cast<int>(fixed.shape.size());
      std::copy(fixed.shape.begin(), fixed.shape.end(), p.shape);
      owned.sizes = fixed.sizes;
      p.offsets = fixed.offsets;
      p.mixed = mixed;
      p.crop = crop;
      owned.shift = fixed.shift;
      owned.make([&](int64_t cell) -> uint8_t {
        if (cell % 1009 == 77) return 128;
        bool in = true;
        int64_t rest = cell;
        for (int k = p.dims - 1; k >= 0; --k) {
          const int64_t at = rest % p.shape[k];
          rest /= p.shape[k];
          in &= (at & 0x24) != 0 && at % 70 < 67;
        }
        return in ? static_cast<uint8_t>(1 + cell % 3) : uint8_t{0};
      });
      check_problem(owned, schedule, "fixed");
    }
  }
}

void test_fixed_problems() {
  const std::vector<int64_t> powers = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
  const std::vector<int64_t> few = {1, 2, 4, 8, 16};
  const Fixed all[] = {
      // Whole tiles, more tiles than warps, sides of tiles and a little more or less.
      {1, {20000}, powers, 1, 0},
      {1, {256, 384}, powers, 1, 0},
      {2, {65, 127}, powers, 1, 0},
      {2, {63, 129}, powers, 1, 3},
      {1, {129, 1040}, powers, 1, 0},
      {1, {24, 16, 144}, powers, 1, 0},
      {3, {9, 7, 131}, powers, 1, 5},
      {1, {70, 9, 17}, powers, 1, 0},
      {1, {9, 8, 5, 144}, few, 1, 0},
      {2, {5, 4, 6, 7, 33}, few, 1, 0},
      {1, {3, 2, 3, 9, 130}, few, 1, 0},
      // Sizes twice, unsorted, and beyond every side.
      {2, {40, 40}, {8, 1, 8, int64_t{1} << 61, 64, 1}, 1, 0},
  };
  uint64_t schedule = 0;
  for (const Fixed& fixed : all) check_fixed(fixed, schedule++ % 3);
}

void test_windows() {
  const Fixed all[] = {
      // Sizes that grow the windows to 8, 64, 256 and 1024 cells, and ask for them between.
      {1, {9000}, {1, 3, 7, 9, 63, 64, 65, 200, 300, 1500, 8999, 10000}, 1, 0},
      {2, {3000}, {5, 64, 70, 600, 2999}, 7, 1},
      {1, {2500}, {33, 64, 130}, 0, 2},
      {2, {90, 333}, {1, 2, 3, 10, 17, 33, 63, 64, 65, 89}, 1, 0},
      {1, {100, 200}, {6, 50, 64, 66, 128}, 3, 7},
      {1, {33, 70}, {5, 64, 65, 70}, 0, 0},
      {1, {40, 22, 66}, {1, 3, 5, 16, 17, 22}, 2, 0},
      {1, {12, 9, 11, 70}, {2, 5, 9, 66}, 2, 3},
      {2, {5, 7, 4, 5, 9}, {2, 3, 4, 6}, 2, 0},
      // Rows of more than one segment; origins beyond a warp; the same size twice.
      {1, {3, 17000}, {4, 40, 4}, 1, 0},
      {1, {17000}, {50}, 40, 0},
      {3, {20, 20}, {int64_t{1} << 61, 7}, 1, 0},
  };
  uint64_t schedule = 0;
  for (const Fixed& fixed : all) check_fixed(fixed, schedule++ % 3);
}

void test_many_small_masks() { check_fixed({4096, {16, 16}, {1, 2, 4, 8, 16}, 1, 0}, 5); }

void test_nothing_to_count() {
  for (const Fixed& fixed :
       {Fixed{0, {5, 5}, {1, 2}, 1, 0}, Fixed{2, {5, 0}, {1, 2}, 1, 0}, Fixed{2, {5, 5}, {}, 1, 0}})
    check_fixed(fixed, 0);
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  test_fixed_problems();
  test_windows();
  test_many_small_masks();
  test_nothing_to_count();
  test_random_problems();
  return testing_result();
}
