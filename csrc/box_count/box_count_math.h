// Bit arithmetic of box counting, shared by host and device code.
//
// 64 neighbouring cells of the last axis are the bits of one word, the first cell lowest.
#pragma once

#include <cstdint>

#include "common/boxes.h"
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

// Which of the four bytes of `word` are not zero: bits 28 to 31, the lowest byte first. The lower
// bits are rubbish.
FRACTALKERN_HOST_DEVICE constexpr uint32_t nonzero_bytes(uint32_t word) {
  const uint32_t top = (((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word) & 0x80808080u;
  return top * 0x00204081u;  // four copies, each top bit 7 places from its neighbour's
}

// The same for 16 bytes, little-endian in four words: bits 0 to 15.
FRACTALKERN_HOST_DEVICE constexpr uint32_t pack_16_bytes(uint32_t w0, uint32_t w1, uint32_t w2,
                                                         uint32_t w3) {
  uint32_t bits = nonzero_bytes(w3) >> 28;
  bits = (bits << 4) | (nonzero_bytes(w2) >> 28);
  bits = (bits << 4) | (nonzero_bytes(w1) >> 28);
  return (bits << 4) | (nonzero_bytes(w0) >> 28);
}

// `low` and `high` are 128 neighbouring bits, of which bit p tells of the cells [p, p + window).
// Bit p of the result tells of [p, p + size), for window <= size <= window + 64.
FRACTALKERN_HOST_DEVICE constexpr uint64_t widen(uint64_t low, uint64_t high, int64_t window,
                                                 int64_t size) {
  while (window < size) {
    const int64_t shift = window <= size - window ? window : size - window;
    if (shift == 64) return low | high;
    low |= (low >> shift) | (high << (64 - shift));
    high |= high >> shift;
    window += shift;
  }
  return low;
}

// Bits b of a word, whose bit 0 is cell `first`, with first + b + origin a multiple of size <= 64.
FRACTALKERN_HOST_DEVICE constexpr uint64_t box_starts(int64_t first, int64_t origin, int64_t size) {
  const int64_t past = (first + origin) % size;  // of the last start; negative for a negative cell
  uint64_t starts = 1;
  for (int64_t period = size; period < 64; period *= 2) starts |= starts << period;
  return starts << (past > 0 ? size - past : -past);
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
