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

// Of the 16 cells from `cells` on those in `valid`, the others as 0.
__device__ __forceinline__ uint32_t load_single_cells(const uint8_t* cells, uint32_t valid) {
  uint32_t bits = 0;
  for (uint32_t rest = valid; rest != 0; rest &= rest - 1) {
    const int i = __ffs(static_cast<int>(rest)) - 1;
    bits |= static_cast<uint32_t>(cells[i] != 0) << i;
  }
  return bits;
}

// How many bytes an address lies past a multiple of 16.
__device__ __forceinline__ int past_block(const uint8_t* address) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(address) % 16);
}

// The same from the two blocks of 16 bytes that hold the cells; both must be readable unless
// `valid` is 0.
__device__ __forceinline__ uint32_t load_two_blocks(const uint8_t* cells, uint32_t valid) {
  const int past = past_block(cells);
  const auto* const blocks = reinterpret_cast<const uint4*>(cells - past);
  uint4 low{0, 0, 0, 0}, high{0, 0, 0, 0};
  if (valid != 0) low = __ldg(blocks);
  if (valid != 0) high = __ldg(blocks + 1);
  return (pack_16_bytes(low) | pack_16_bytes(high) << 16) >> past & valid;
}

// The same at any alignment; nothing outside [begin, end) is touched.
__device__ __forceinline__ uint32_t load_16_cells(const uint8_t* cells, uint32_t valid,
                                                  const uint8_t* begin, const uint8_t* end) {
  if (valid == 0) return 0;
  const int past = past_block(cells);
  if (past == 0 && end - cells >= 16)
    return pack_16_bytes(__ldg(reinterpret_cast<const uint4*>(cells))) & valid;
  if (cells - past < begin || end - (cells - past) < 32) return load_single_cells(cells, valid);
  return load_two_blocks(cells, valid);
}

// The two ways; box_count_cuda chooses.
void count_powers_of_two(const BoxCount& problem, const CudaStream& stream);
void count_any_sizes(const BoxCount& problem, const CudaStream& stream);

}  // namespace fractalkern
