// Bit arithmetic of box counting, shared by host and device code.
//
// 64 neighbouring cells of the last axis are the bits of one word, the first cell lowest.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fractalkern {

// Boxes of 2^level cells, level <= 6, live on the bits whose index is a multiple of 2^level.
FRACTALKERN_HOST_DEVICE constexpr uint64_t level_mask(int level) {
  constexpr uint64_t kMasks[7] = {~0ull,
                                  0x5555555555555555ull,
                                  0x1111111111111111ull,
                                  0x0101010101010101ull,
                                  0x0001000100010001ull,
                                  0x0000000100000001ull,
                                  1ull};
  return kMasks[level];
}

// Bits below `count`, which may be anything: none for count <= 0, all for count >= 64.
FRACTALKERN_HOST_DEVICE constexpr uint64_t low_bits(int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~0ull : (1ull << count) - 1;
}

// Population count without a population-count instruction.
FRACTALKERN_HOST_DEVICE constexpr int64_t portable_popcount(uint64_t word) {
  word -= (word >> 1) & 0x5555555555555555ull;
  word = (word & 0x3333333333333333ull) + ((word >> 2) & 0x3333333333333333ull);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0full;
  return static_cast<int64_t>((word * 0x0101010101010101ull) >> 56);
}

FRACTALKERN_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b != 0);
}

// Does row [.., 64 * words] hold a set bit in [begin, end)?
FRACTALKERN_HOST_DEVICE bool any_bit(const uint64_t* row, int64_t begin, int64_t end) {
  if (begin >= end) return false;
  const int64_t first = begin / 64, last = (end - 1) / 64;
  const uint64_t head = ~low_bits(begin % 64), tail = low_bits(end - last * 64);
  if (first == last) return (row[first] & head & tail) != 0;
  if ((row[first] & head) != 0) return true;
  for (int64_t w = first + 1; w < last; ++w)
    if (row[w] != 0) return true;
  return (row[last] & tail) != 0;
}

}  // namespace fractalkern
