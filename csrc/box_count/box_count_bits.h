// What both ways of counting share on the CPU: cells packed to bits, cache lines of them, and sums
// over threads. Only box_count_*_cpu.cpp include this.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "box_count/box_count.h"
#include "box_count/box_count_math.h"
#include "common/instruction_set.h"

namespace fractalkern {

using Shape = std::array<int64_t, kBoxCountMaxDims>;

// One cache line of packed cells. May be loaded from any address that holds words.
constexpr int64_t kVectorWords = 8;
typedef uint64_t Vector __attribute__((vector_size(64), aligned(8), may_alias));

FRACTALKERN_INLINE Vector& vector_at(uint64_t* words) { return *reinterpret_cast<Vector*>(words); }
FRACTALKERN_INLINE const Vector& vector_at(const uint64_t* words) {
  return *reinterpret_cast<const Vector*>(words);
}

template <class Isa>
FRACTALKERN_INLINE int64_t popcount(uint64_t word) {
#if defined(__x86_64__)
  if constexpr (std::is_same_v<Isa, Baseline>) return portable_popcount(word);
#endif
  return std::popcount(word);
}

inline void add(int64_t& total, int64_t term) {
  if (term != 0) std::atomic_ref<int64_t>(total).fetch_add(term, std::memory_order_relaxed);
}

// 64 bytes to a word: bit b is set where byte b is not zero.
FRACTALKERN_INLINE uint64_t pack_word(const uint8_t* bytes) {
  uint64_t word = 0;
#if defined(__SSE2__)
  for (int quarter = 0; quarter < 4; ++quarter) {
    const __m128i cells = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16 * quarter));
    const auto empty =
        static_cast<uint16_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(cells, _mm_setzero_si128())));
    word |= static_cast<uint64_t>(static_cast<uint16_t>(~empty)) << (16 * quarter);
  }
#else
  for (int b = 0; b < 64; ++b) word |= static_cast<uint64_t>(bytes[b] != 0) << b;
#endif
  return word;
}

// Rows of a strip: up to 64 neighbours along the last axis but one. The row with index r lies in
// slot reverse(r), its bits reversed, so that the rows that merge at a level are half a strip
// apart: merging is one long loop, however short the rows.
constexpr int64_t kStripRows = 64;

FRACTALKERN_INLINE int64_t reverse(int64_t row, int64_t slots) {
  int64_t slot = 0;
  for (; slots > 1; slots /= 2, row /= 2) slot = 2 * slot + (row & 1);
  return slot;
}

// Rows of `count` bytes, `stride` apart, to rows of ceil(count / 64) words; the unused bits of the
// last one are zero. Row r goes to slot reverse(r).
template <class Isa>
struct Pack {
  static FRACTALKERN_INLINE void row(const uint8_t* bytes, int64_t count, uint64_t* words) {
    for (; count >= 64; count -= 64, bytes += 64) *words++ = pack_word(bytes);
    if (count > 0) {
      uint8_t tail[64] = {};
      std::memcpy(tail, bytes, static_cast<size_t>(count));
      *words = pack_word(tail);
    }
  }
  static FRACTALKERN_INLINE void rows(const uint8_t* bytes, int64_t rows, int64_t stride,
                                      int64_t count, int64_t slots, uint64_t* words) {
    const int64_t row_words = ceil_div(count, 64);
    for (int64_t r = 0; r < rows; ++r)
      row(bytes + r * stride, count, words + reverse(r, slots) * row_words);
  }
};

#if defined(__x86_64__)
template <>
struct Pack<X86V4> {
  FRACTALKERN_TARGET_X86V4 static void row(const uint8_t* bytes, int64_t count, uint64_t* words) {
    for (; count >= 64; count -= 64, bytes += 64) {
      const __m512i cells = _mm512_loadu_si512(bytes);
      *words++ = _mm512_test_epi8_mask(cells, cells);
    }
    if (count > 0) {
      const __m512i cells = _mm512_maskz_loadu_epi8(low_bits(count), bytes);
      *words = _mm512_test_epi8_mask(cells, cells);
    }
  }
  FRACTALKERN_TARGET_X86V4 static void rows(const uint8_t* bytes, int64_t rows, int64_t stride,
                                            int64_t count, int64_t slots, uint64_t* words) {
    const int64_t row_words = ceil_div(count, 64);
    for (int64_t r = 0; r < rows; ++r)
      row(bytes + r * stride, count, words + reverse(r, slots) * row_words);
  }
};
#endif

// The two ways; box_count_cpu chooses.
void count_powers_of_two(const BoxCount& problem, const Parallel& parallel);
void count_any_sizes(const BoxCount& problem, const Parallel& parallel);

}  // namespace fractalkern
