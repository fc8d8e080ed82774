// The body of dropout_mask, compiled once per instruction set (common/each_instruction_set.h). No
// include guard.

#define FRACTALKERN_MATH FRACTALKERN_TARGET inline __attribute__((always_inline))
#include "common/philox_vectors.h"

namespace fractalkern::FRACTALKERN_ISA {

// Lane l of a vector of Wide is the values of two elements: of `low` the first two of the lane's
// four, of `high` the others.
template <std::size_t... kLane>
FRACTALKERN_MATH void store_lanes(Wide low, Wide high, float* to, std::index_sequence<kLane...>) {
  constexpr int kLanes = sizeof...(kLane);
  const Wide first =
      __builtin_shufflevector(low, high, (int(kLane) / 2 + int(kLane) % 2 * kLanes)...);
  const Wide second =
      __builtin_shufflevector(low, high, (int(kLane + kLanes) / 2 + int(kLane) % 2 * kLanes)...);
  std::memcpy(to, &first, sizeof(Wide));
  std::memcpy(to + 2 * kLanes, &second, sizeof(Wide));
}

// The counter's first word is a lane's block; its four words decide on four elements.
FRACTALKERN_TARGET void mask_blocks(const MaskTask& task) {
  constexpr int64_t kLanes = FRACTALKERN_ISA_TAG::kVectorBytes / sizeof(uint64_t);
  constexpr auto kSequence = std::make_index_sequence<kLanes>();
  const DropoutMask& mask = task.mask;
  const int64_t* const key = mask.keys + 2 * task.row;
  float* const to = mask.values + task.row * mask.count;
  const uint64_t scale = __builtin_bit_cast(uint32_t, mask.scale);
  Wide lanes = {};
  for (int64_t l = 0; l < kLanes; ++l) lanes[l] = static_cast<uint64_t>(l);
  for (int64_t block = task.begin; block < task.end; block += kLanes) {
    Wide word[4] = {lanes + static_cast<uint64_t>(block), Wide{} + mask.counter[0],
                    Wide{} + mask.counter[1], Wide{} + mask.counter[2]};
    philox4x32(word, static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1]));
    Wide value[4];
    for (int k = 0; k < 4; ++k) {
      const Wide kept = Wide((word[k] & 0xFFFFFFFF) >= mask.threshold);
      value[k] = kept & (k % 2 == 0 ? scale : scale << 32);
    }
    const Wide low = value[0] | value[1], high = value[2] | value[3];
    const int64_t left = mask.count - 4 * block;
    if (left >= 4 * kLanes) {
      store_lanes(low, high, to + 4 * block, kSequence);
    } else {
      float last[4 * kLanes];
      store_lanes(low, high, last, kSequence);
      std::copy(last, last + left, to + 4 * block);
    }
  }
}

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_MATH
