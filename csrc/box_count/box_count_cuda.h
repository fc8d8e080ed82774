// What both ways of counting share on a GPU: cells packed to bits as they are read. Only
// box_count_*_cuda.cu include this.
#pragma once

#include <cstdint>

#include "box_count/box_count.h"
#include "box_count/box_count_math.h"
#include "common/cuda_launch.h"

namespace fractalkern {

__device__ __forceinline__ uint32_t pack_16_bytes(uint4 bytes) {
  return pack_16_bytes(bytes.x, bytes.y, bytes.z, bytes.w);
}

// The 16 cells from `cells` on as bits, at any alignment. Cells outside `valid` read as 0; nothing
// outside [begin, end) is touched.
__device__ __forceinline__ uint32_t load_16_cells(const uint8_t* cells, uint32_t valid,
                                                  const uint8_t* begin, const uint8_t* end) {
  if (valid == 0) return 0;
  const auto past = static_cast<int>(reinterpret_cast<uintptr_t>(cells) % 16);
  const uint8_t* const block = cells - past;
  if (block >= begin && end - block >= 32) {
    const auto* const blocks = reinterpret_cast<const uint4*>(block);
    uint32_t bits = pack_16_bytes(__ldg(blocks));
    if (past != 0) bits |= pack_16_bytes(__ldg(blocks + 1)) << 16;
    return bits >> past & valid;
  }
  uint32_t bits = 0;
  for (uint32_t rest = valid; rest != 0; rest &= rest - 1) {
    const int i = __ffs(static_cast<int>(rest)) - 1;
    bits |= static_cast<uint32_t>(cells[i] != 0) << i;
  }
  return bits;
}

// The two ways; box_count_cuda chooses.
void count_powers_of_two(const BoxCount& problem, const CudaStream& stream);
void count_any_sizes(const BoxCount& problem, const CudaStream& stream);

}  // namespace fractalkern
