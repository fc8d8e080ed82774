// The body of dropout_mask, compiled once per instruction set (common/each_instruction_set.h). No
// include guard.

#define FRACTALKERN_MATH FRACTALKERN_TARGET inline __attribute__((always_inline))
namespace fractalkern::FRACTALKERN_ISA {

using Wide = VectorOf<uint64_t, FRACTALKERN_ISA_TAG::kVectorBytes>::type;

FRACTALKERN_MATH Wide multiply_low(Wide x, uint32_t constant) {
  return (x & 0xFFFFFFFF) * constant;
}

}  // namespace fractalkern::FRACTALKERN_ISA

#include "common/philox.h"

namespace fractalkern::FRACTALKERN_ISA {

// The counter's first word is a lane's block; its four words decide on four bytes.
FRACTALKERN_TARGET void mask_blocks(const MaskTask& task) {
  constexpr int64_t kLanes = FRACTALKERN_ISA_TAG::kVectorBytes / sizeof(uint64_t);
  using Bytes = VectorOf<uint32_t, FRACTALKERN_ISA_TAG::kVectorBytes / 2>::type;
  const DropoutMask& mask = task.mask;
  const int64_t* const key = mask.keys + 2 * task.row;
  uint8_t* const to = mask.kept + task.row * mask.count;
  Wide lanes = {};
  for (int64_t l = 0; l < kLanes; ++l) lanes[l] = static_cast<uint64_t>(l);
  for (int64_t block = task.begin; block < task.end; block += kLanes) {
    Wide word[4] = {lanes + static_cast<uint64_t>(block), Wide{} + mask.counter[0],
                    Wide{} + mask.counter[1], Wide{} + mask.counter[2]};
    philox4x32(word, static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1]));
    Wide bytes = {};
    for (int k = 0; k < 4; ++k) {
      const auto kept = (word[k] & 0xFFFFFFFF) >= mask.threshold;
      bytes |= (Wide(kept) & 1) << (8 * k);
    }
    const Bytes packed = __builtin_convertvector(bytes, Bytes);
    const int64_t left = mask.count - 4 * block;
    const auto size = static_cast<size_t>(std::min<int64_t>(4 * kLanes, left));
    std::memcpy(to + 4 * block, &packed, size);
  }
}

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_MATH
