// Checks masks of dropout against Philox, word by word, for every instruction set of this CPU and
// for 1 to 3 threads. Meant for sanitizers: every array has exactly its own length.
#include "dropout_mask/dropout_mask.h"

#include <string>
#include <vector>

#include "tests/testing.h"

#define FRACTALKERN_ISA oracle
#define FRACTALKERN_MATH inline
#include "common/philox.h"
#undef FRACTALKERN_MATH
#undef FRACTALKERN_ISA

namespace {

using fractalkern::DropoutMask;
using fractalkern::testing::thread_parallel;

void check_masks(int64_t count, int64_t threads, const std::string& name) {
  const std::vector<int64_t> keys = {1, 2, 0xFFFFFFFF, 7};
  std::vector<float> values(static_cast<size_t>(2 * count), -1);
  DropoutMask mask{keys.data(),       2,    count,        {5, 0x80000000, 77},
                   uint64_t{1} << 30, 1.5f, values.data()};
  fractalkern::dropout_mask_cpu(mask, thread_parallel(threads));
  for (int64_t row = 0; row < 2; ++row) {
    for (int64_t i = 0; i < count; ++i) {
      uint64_t word[4] = {static_cast<uint64_t>(i / 4), 5, 0x80000000, 77};
      fractalkern::oracle::philox4x32(word, static_cast<uint64_t>(keys[2 * row]),
                                      static_cast<uint64_t>(keys[2 * row + 1]));
      const float expected = (word[i % 4] & 0xFFFFFFFF) >= mask.threshold ? 1.5f : 0.0f;
      CHECK(values[row * count + i] == expected, name, count, row, i, expected);
    }
  }
}

}  // namespace

int main() {
  fractalkern::testing::for_each_instruction_set([](const std::string& name) {
    for (const int64_t count : {0, 1, 4, 6, 31, 64, 100'003})
      for (int64_t threads = 1; threads <= 3; ++threads) check_masks(count, threads, name);
  });
  return fractalkern::testing::testing_result();
}
