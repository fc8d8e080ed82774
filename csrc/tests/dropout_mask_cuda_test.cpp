// Masks of dropout in CUDA, run on the CPU under several schedules: the bits of the CPU kernel, for
// rows that begin at a multiple of 16 bytes or not. Every array has exactly its own length.
#include <vector>

#include "dropout_mask/dropout_mask.h"
#include "tests/cuda_on_host.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

// The values begin `shift` elements behind a multiple of 16 bytes.
void compare(int64_t rows, int64_t count, uint64_t threshold, int64_t shift) {
  Random random(static_cast<uint64_t>(rows + count) + threshold);
  std::vector<int64_t> keys(static_cast<size_t>(2 * rows));
  for (int64_t& word : keys) word = static_cast<int64_t>(random.bits() >> 32);
  std::vector<float> expected(static_cast<size_t>(shift + rows * count), -1);
  DropoutMask mask{keys.data(), rows, count, {5, 0x80000000, 77}, threshold, 1.5f, nullptr};
  mask.values = expected.data() + shift;
  dropout_mask_cpu(mask, thread_parallel(1));
  for (uint64_t schedule = 0; schedule < 3; ++schedule) {
    cuda_on_host::schedule = schedule;
    std::vector<float> values(expected.size(), -1);
    mask.values = values.data() + shift;
    dropout_mask_cuda(mask, {});
    CHECK(values == expected, rows, count, threshold, shift, schedule);
  }
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using fractalkern::testing::compare;
  constexpr uint64_t kWords = uint64_t{1} << 32;
  // Rows of one piece and of several.
  for (const int64_t count : {0, 1, 3, 4, 6, 31, 64, 4096, 4100, 10'003})
    for (const int64_t rows : {0, 1, 3})
      for (const int64_t shift : {0, 1, 2}) compare(rows, count, kWords / 4, shift);
  for (const uint64_t threshold : {uint64_t{0}, uint64_t{1}, kWords - 1, kWords})
    compare(2, 1000, threshold, 0);
  for (const int64_t count : {4, 5}) compare(500, count, kWords / 2, 0);  // more than blocks
  return fractalkern::testing::testing_result();
}
