// CPU kernel of box_count. Cells become bits as they are read (64 bytes to a word), and the mask is
// read once, whatever is asked.
//
// Powers of two from one origin: a pyramid. A strip of up to 64 rows is packed, counted by
// population count, and merged level by level up to boxes of 64 cells while it lies in L1: row
// pairs by OR, bit pairs by w | w >> 2^(level - 1), leaving the boxes spread over the words they
// came from. In three and more dimensions the strips of a level wait, merged so far, until all
// their neighbours along the other leading axes have come by. Boxes of 64 cells go to a byte map,
// 64^dims times smaller, that is counted as a mask of its own. Tasks are tiles of the mask, cut
// along the first axes first so that a task reads contiguous memory, or runs of small masks.
//
// Anything else: common refinements. The edges of all boxes of all sizes and origins cut each
// leading axis into segments; the mask is read once and every cell of that product of segments is
// the OR of its rows (and, for rule mixed, of their complements). Each size is then counted on this
// lattice, and before the next size (ascending) segments that only smaller sizes had cut are merged
// where that saves a quarter of the rows. For the sizes that people use, nearly geometric, the
// lattices shrink so fast that all sizes together cost little beside the one read of the mask. A
// count task is a block of boxes along axis 0: their rows are ORed, then those of the boxes along
// the next axis, and so on. Along the last axis the row is dilated by doubling shifts and its bits
// are counted at the boxes' starts; for large sizes from few origins each box is searched instead,
// and most end at the first word.
//
// Tried and lost:
// - One row at a time through the pyramid: 2x slower at 512^2, 1.6x on 4096 masks of 200^2. Rows
//   of a few words leave vectors empty, the per-row control flow outweighs them, and the vector
//   load after the packing stores stalls, as the stores are narrower. Hence strips, and within
//   them the rows in bit-reversed order, so that partners are half a strip apart.
// - Tables of windows of 2^m segments for many origins: not needed. With all origins the ORs of a
//   box's rows stay in L1 and the bit tests along the last axis cost as much.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "box_count/box_count.h"
#include "box_count/box_count_math.h"
#include "common/instruction_set.h"

namespace fractalkern {
namespace {

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

void add(int64_t& total, int64_t term) {
  if (term != 0) std::atomic_ref<int64_t>(total).fetch_add(term, std::memory_order_relaxed);
}

// ---- bytes to bits ----

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

// ---- powers of two: a pyramid in one pass ----

struct Pyramid {
  const uint8_t* one;   // [batch, *shape], nonzero = the box holds a cell of the set
  const uint8_t* zero;  // [batch, *shape], nonzero = it holds a cell outside the set; may be null:
                        // the complement of `one`
  int64_t batch;
  int dims;
  Shape shape;
  uint64_t wanted;  // bit l: count the boxes of size 2^l
  bool mixed, crop;
  int64_t* counts;  // [batch, 64]: by level

  // The boxes of 64 cells as a mask of its own, for the levels above 6. `zero` only with `mixed`.
  uint8_t *coarse_one, *coarse_zero;  // [batch, *coarse_shape]; null if there are no such levels
  Shape coarse_shape;

  Shape tile;   // cells; a multiple of 64 unless it spans the axis
  Shape tiles;  // along each axis
  int64_t tiles_per_mask;
};

struct PyramidTask {
  const Pyramid& pyramid;
  int64_t begin, end;  // tiles, over all masks
};

template <class Isa>
FRACTALKERN_INLINE int64_t popcount_all(const uint64_t* words, int64_t count) {
  int64_t total = 0;
  for (int64_t w = 0; w < count; ++w) total += popcount<Isa>(words[w]);
  return total;
}

template <class Isa>
FRACTALKERN_INLINE void pyramid_body(const PyramidTask& task) {
  const Pyramid& p = task.pyramid;
  const int last = p.dims - 1;
  const int strip_axis = last - 1;  // -1 in one dimension: a strip is the one row
  const int planes = p.mixed ? 2 : 1;
  const int levels = p.wanted >> 7 ? 6 : 63 - std::countl_zero(p.wanted | 1);
  const int64_t most_words = ceil_div(p.tile[last], 64);
  const int64_t most_rows = last > 0 ? std::min(p.tile[strip_axis], kStripRows) : 1;
  const int64_t strips = last > 0 ? ceil_div(p.tile[strip_axis], kStripRows) : 1;

  // Strips of level l in progress: [*axes 1 .. strip_axis - 1 at level l, strips, planes, plane].
  int64_t plane_words[7], level_begin[8] = {}, place_stride[7][kBoxCountMaxDims] = {};
  for (int level = 0; level <= levels; ++level) {
    const auto slots =
        static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(most_rows))) >> level;
    plane_words[level] =
        ceil_div(std::max<int64_t>(slots, 1) * most_words, kVectorWords) * kVectorWords;
    int64_t places = level == 0 ? 1 : strips;
    for (int k = strip_axis - 1; k > 0 && level > 0; --k) {
      place_stride[level][k] = places;
      places *= ceil_div(p.tile[k], int64_t{1} << level);
    }
    level_begin[level + 1] = level_begin[level] + places * planes * plane_words[level];
  }
  std::vector<uint64_t> scratch(static_cast<size_t>(level_begin[levels + 1] + kVectorWords));

  int64_t stride[kBoxCountMaxDims], coarse_stride[kBoxCountMaxDims];
  stride[last] = coarse_stride[last] = 1;
  for (int k = last - 1; k >= 0; --k) {
    stride[k] = stride[k + 1] * p.shape[k + 1];
    coarse_stride[k] = coarse_stride[k + 1] * p.coarse_shape[k + 1];
  }
  const int64_t mask_cells = stride[0] * p.shape[0];
  const int64_t coarse_cells = coarse_stride[0] * p.coarse_shape[0];
  const int64_t row_stride = last > 0 ? stride[strip_axis] : 0;

  int64_t counts[7] = {};
  for (int64_t index = task.begin; index < task.end; ++index) {
    const int64_t item = index / p.tiles_per_mask;
    int64_t remainder = index % p.tiles_per_mask;
    int64_t origin[kBoxCountMaxDims], extent[kBoxCountMaxDims];
    int64_t cell = item * mask_cells;
    for (int k = last; k >= 0; --k) {
      origin[k] = remainder % p.tiles[k] * p.tile[k];
      remainder /= p.tiles[k];
      extent[k] = std::min(p.tile[k], p.shape[k] - origin[k]);
      cell += origin[k] * stride[k];
    }
    const int64_t words = ceil_div(extent[last], 64);
    const int64_t tail = extent[last] - 64 * (words - 1);  // cells in a row's last word

    // The first cell of a strip, one strip after the other in memory order.
    int64_t coordinate[kBoxCountMaxDims] = {};
    for (;;) {
      const int64_t rows =
          last > 0 ? std::min(kStripRows, extent[strip_axis] - coordinate[strip_axis]) : 1;
      auto slots = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
      uint64_t* from = scratch.data();
      uint64_t* from_zero = from + plane_words[0];
      if (slots > rows) std::fill_n(from, slots * words, 0);
      Pack<Isa>::rows(p.one + cell, rows, row_stride, extent[last], slots, from);
      if (p.mixed) {
        if (slots > rows) std::fill_n(from_zero, slots * words, 0);
        if (p.zero != nullptr) {
          Pack<Isa>::rows(p.zero + cell, rows, row_stride, extent[last], slots, from_zero);
        } else {
          for (int64_t r = 0; r < rows; ++r) {
            const int64_t slot = reverse(r, slots) * words;
            for (int64_t w = 0; w < words; ++w) from_zero[slot + w] = ~from[slot + w];
            from_zero[slot + words - 1] &= low_bits(tail);
          }
        }
      } else if (p.wanted & 1) {
        counts[0] += popcount_all<Isa>(from, slots * words);
      }

      bool complete = true;
      for (int level = 1; level <= levels; ++level) {
        // Do the strip's other coordinates begin a box of this level; do they end one?
        bool first = true;
        int64_t place = last > 0 ? coordinate[strip_axis] / kStripRows : 0;
        for (int k = 0; k < strip_axis; ++k) {
          const int64_t c = coordinate[k] >> (level - 1);
          first &= (c & 1) == 0;
          complete &= (c & 1) != 0 || (!p.crop && c == (extent[k] - 1) >> (level - 1));
          place += (c >> 1) * place_stride[level][k];
        }
        uint64_t* const to =
            scratch.data() + level_begin[level] + place * planes * plane_words[level];
        uint64_t* const to_zero = to + plane_words[level];
        const int64_t partner = slots > 1 ? slots / 2 * words : 0;
        slots = std::max<int64_t>(slots / 2, 1);
        const int shift = 1 << (level - 1);
        const uint64_t kept = level_mask(level);
        for (int plane = 0; plane < planes; ++plane) {
          const uint64_t* const source = plane == 0 ? from : from_zero;
          uint64_t* const target = plane == 0 ? to : to_zero;
          for (int64_t w = 0; w < slots * words; w += kVectorWords) {
            const Vector merged = vector_at(source + w) | vector_at(source + w + partner);
            const Vector boxes = (merged | (merged >> shift)) & kept;
            vector_at(target + w) = first ? boxes : vector_at(target + w) | boxes;
          }
        }
        if (!complete) break;
        if (p.crop) {
          const int64_t cells = p.shape[last] >> level << level;
          const uint64_t inside = low_bits(cells - origin[last] - 64 * (words - 1));
          for (int plane = 0; plane < planes; ++plane) {
            uint64_t* const target = plane == 0 ? to : to_zero;
            for (int64_t s = 0; s < slots; ++s) target[(s + 1) * words - 1] &= inside;
            if (last > 0 && rows >> level < slots && rows >> level << level < rows)
              std::fill_n(target + reverse(rows >> level, slots) * words, words, 0);
          }
        }
        from = to;
        from_zero = to_zero;
        if (p.wanted >> level & 1) {
          if (p.mixed) {
            for (int64_t w = 0; w < slots * words; ++w)
              counts[level] += popcount<Isa>(from[w] & from_zero[w]);
          } else {
            counts[level] += popcount_all<Isa>(from, slots * words);
          }
        }
      }

      if (complete && p.coarse_one != nullptr) {
        int64_t target = item * coarse_cells;
        bool inside = true;
        for (int k = 0; k < last; ++k) {
          const int64_t c = (origin[k] + coordinate[k]) / 64;
          inside &= c < p.coarse_shape[k];
          target += c * coarse_stride[k];
        }
        target += origin[last] / 64;
        const int64_t boxes =
            inside ? std::min(words, p.coarse_shape[last] - origin[last] / 64) : 0;
        for (int64_t w = 0; w < boxes; ++w) p.coarse_one[target + w] = from[w] & 1;
        if (p.mixed)
          for (int64_t w = 0; w < boxes; ++w) p.coarse_zero[target + w] = from_zero[w] & 1;
      }

      int k = strip_axis;
      for (; k >= 0; --k) {
        const int64_t step = k == strip_axis ? kStripRows : 1;
        coordinate[k] += step;
        cell += step * stride[k];
        if (coordinate[k] < extent[k]) break;
        cell -= coordinate[k] * stride[k];
        coordinate[k] = 0;
      }
      if (k < 0) break;
    }

    if (index + 1 == task.end || (index + 1) % p.tiles_per_mask == 0) {
      for (int level = 0; level <= levels; ++level) {
        add(p.counts[item * 64 + level], counts[level]);
        counts[level] = 0;
      }
    }
  }
}
FRACTALKERN_ENTRY_POINTS(pyramid_entry, pyramid_body, PyramidTask)

void choose_tiles(Pyramid& p, int64_t elements, int64_t threads) {
  constexpr int64_t kTileElements = 1 << 16, kScratchWords = 1 << 15, kRowCells = 1 << 16;
  const int last = p.dims - 1;
  const int64_t tasks = std::min(16 * threads, elements / kTileElements);
  const auto unit = [&](int k) { return k == last ? int64_t{4096} : int64_t{64}; };
  const auto halve = [&](int k) {
    p.tile[k] = ceil_div(ceil_div(p.tile[k], 2), unit(k)) * unit(k);
    p.tiles[k] = ceil_div(p.shape[k], p.tile[k]);
    p.tiles_per_mask = 1;
    for (int i = 0; i < p.dims; ++i) p.tiles_per_mask *= p.tiles[i];
  };
  p.tile = p.shape;
  p.tiles.fill(1);
  p.tiles_per_mask = 1;
  while (p.tile[last] > kRowCells) halve(last);
  for (int k = 0; k < p.dims && threads > 1; ++k)
    while (p.batch * p.tiles_per_mask < tasks && p.tile[k] > unit(k)) halve(k);
  for (;;) {
    int64_t words = ceil_div(p.tile[last], 64);
    int longest = last;
    for (int k = 1; k < last; ++k) {
      words *= ceil_div(p.tile[k], 2);
      if (p.tile[k] > unit(k) && (longest == last || p.tile[k] > p.tile[longest])) longest = k;
    }
    if (words <= kScratchWords || p.tile[longest] <= unit(longest)) break;
    halve(longest);
  }
}

// Counts of all wanted levels; calls itself on the map of 64-cell boxes for those above 6.
void count_pyramid(Pyramid p, const Parallel& parallel) {
  int64_t cells = 1, coarse_cells = 1;
  for (int k = 0; k < p.dims; ++k) {
    cells *= p.shape[k];
    p.coarse_shape[k] = p.crop ? p.shape[k] / 64 : ceil_div(p.shape[k], 64);
    coarse_cells *= p.coarse_shape[k];
  }
  if (p.wanted == 0 || p.batch * cells == 0) return;
  std::vector<uint8_t> coarse;
  p.coarse_one = p.coarse_zero = nullptr;
  if (p.wanted >> 7 != 0) {
    coarse.resize(static_cast<size_t>(p.batch * coarse_cells * (p.mixed ? 2 : 1)));
    p.coarse_one = coarse.data();
    p.coarse_zero = coarse.data() + (p.mixed ? p.batch * coarse_cells : 0);
  }
  choose_tiles(p, p.batch * cells, parallel.threads());

  const int64_t tiles = p.batch * p.tiles_per_mask;
  const int64_t tasks =
      std::clamp<int64_t>(p.batch * cells >> 16, 1, std::min(tiles, 32 * parallel.threads()));
  const auto entry = pyramid_entry.active();
  parallel.for_each(tasks, p.batch * cells / 8, [&](int64_t i) {
    entry(PyramidTask{p, i * tiles / tasks, (i + 1) * tiles / tasks});
  });

  if (p.coarse_one != nullptr) {
    Pyramid next = p;
    next.one = p.coarse_one;
    next.zero = p.mixed ? p.coarse_zero : nullptr;
    next.shape = p.coarse_shape;
    next.wanted = p.wanted >> 6 & ~uint64_t{1};
    next.counts = p.counts + 6;
    count_pyramid(next, parallel);
  }
}

bool is_power_of_two(int64_t size) { return (size & (size - 1)) == 0; }

void count_powers_of_two(const BoxCount& problem, const Parallel& parallel) {
  std::vector<int64_t> levels(static_cast<size_t>(problem.batch * 64));
  Pyramid pyramid{};
  pyramid.one = problem.mask;
  pyramid.batch = problem.batch;
  pyramid.dims = problem.dims;
  std::copy_n(problem.shape, problem.dims, pyramid.shape.begin());
  pyramid.mixed = problem.mixed;
  pyramid.crop = problem.crop;
  pyramid.counts = levels.data();
  for (int64_t i = 0; i < problem.size_count; ++i)
    pyramid.wanted |= static_cast<uint64_t>(problem.sizes[i]);
  count_pyramid(pyramid, parallel);
  for (int64_t item = 0; item < problem.batch; ++item)
    for (int64_t i = 0; i < problem.size_count; ++i)
      problem.counts[item * problem.size_count + i] = levels[static_cast<size_t>(
          item * 64 + std::countr_zero(static_cast<uint64_t>(problem.sizes[i])))];
}

// ---- any sizes and origins: reduction over common refinements ----

// The axes before the last one. A single axis of length 1 stands in for none.
struct Leading {
  int axes;
  Shape cells;
  int64_t rows() const {
    int64_t product = 1;
    for (int k = 0; k < axes; ++k) product *= cells[k];
    return product;
  }
};

// Packed rows [items, *cells, planes, words]: plane 0 says where a cell of the set lies, plane 1,
// if it is there, where another cell of the array does.
struct Lattice {
  Leading leading;
  int64_t items, words;
  int planes;
  std::unique_ptr<uint64_t[]> bits;

  int64_t row_stride() const { return planes * words; }
  int64_t item_stride() const { return leading.rows() * row_stride(); }
};

struct PackRow {
  const uint8_t* bytes;
  int64_t count;      // bytes
  uint64_t* one;      // [ceil(count / 64)], written
  uint64_t* zero;     // the same for the complement; may be null
  bool assign;        // else OR into what is there
  uint64_t* scratch;  // [ceil(count / 64)]
};

template <class Isa>
FRACTALKERN_INLINE void pack_row_body(const PackRow& r) {
  const int64_t words = ceil_div(r.count, 64);
  uint64_t* const packed = r.assign ? r.one : r.scratch;
  Pack<Isa>::row(r.bytes, r.count, packed);
  if (r.zero != nullptr) {
    const uint64_t keep = r.assign ? 0 : ~uint64_t{0};
    for (int64_t w = 0; w < words; ++w) r.zero[w] = (r.zero[w] & keep) | ~packed[w];
    r.zero[words - 1] &= low_bits(r.count - 64 * (words - 1));
  }
  if (!r.assign)
    for (int64_t w = 0; w < words; ++w) r.one[w] |= packed[w];
}
FRACTALKERN_ENTRY_POINTS(pack_row_entry, pack_row_body, PackRow)

struct OrRows {
  const uint64_t* from;  // [rows, words] with `stride` words from row to row
  int64_t rows, stride, words;
  uint64_t* to;  // [words], written
  bool assign;   // else OR into what is there
};

template <int kVectors>
FRACTALKERN_INLINE void or_columns(const OrRows& r, int64_t w) {
  Vector sum[kVectors] = {};
  for (int64_t i = 0; i < r.rows; ++i)
    for (int v = 0; v < kVectors; ++v)
      sum[v] |= vector_at(r.from + i * r.stride + w + v * kVectorWords);
  for (int v = 0; v < kVectors; ++v) {
    Vector& to = vector_at(r.to + w + v * kVectorWords);
    to = r.assign ? sum[v] : to | sum[v];
  }
}

template <class Isa>
FRACTALKERN_INLINE void or_rows_body(const OrRows& r) {
  int64_t w = 0;
  for (; w + 4 * kVectorWords <= r.words; w += 4 * kVectorWords) or_columns<4>(r, w);
  for (; w + kVectorWords <= r.words; w += kVectorWords) or_columns<1>(r, w);
  for (; w < r.words; ++w) {
    uint64_t sum = r.assign ? 0 : r.to[w];
    for (int64_t i = 0; i < r.rows; ++i) sum |= r.from[i * r.stride + w];
    r.to[w] = sum;
  }
}
FRACTALKERN_ENTRY_POINTS(or_rows_entry, or_rows_body, OrRows)

// Where the boxes of one size lie along an axis, origin by origin.
struct Boxes {
  std::vector<int64_t> begin;                      // [origins + 1] into `range`
  std::vector<std::pair<int64_t, int64_t>> range;  // cells [first, second) of the lattice
  int64_t origins() const { return static_cast<int64_t>(begin.size()) - 1; }
};

// How the boxes of one size are counted along the last axis.
struct LastAxis {
  int64_t size, cells;
  bool mixed, crop;
  std::vector<int64_t> origins;
  std::vector<uint64_t> starts;  // [origins, size], for sizes below 64: bit b of word w tells
                                 // whether a box starts at cell 64 * w + b; repeats in w
  int64_t starts_end() const { return crop ? cells - size + 1 : cells; }
};

struct CountRow {
  const LastAxis& axis;
  const uint64_t *one, *zero;  // [words]; zero only with `mixed`
  int64_t first_word;          // of the row, at one[0]
  int64_t own_words;           // boxes that start in these words are counted
  int64_t words;               // readable; the boxes' other cells lie in them
  uint64_t* scratch;           // [2, padded(words)]
  int64_t* counts;             // [origins], added to
};

int64_t padded(int64_t words) {
  return ceil_div(words, kVectorWords) * kVectorWords + 2 * kVectorWords;
}

// Bit p becomes the OR of bits p .. p + size - 1.
FRACTALKERN_INLINE void dilate(uint64_t* row, int64_t words, int64_t size) {
  const auto shift_in = [&](int64_t distance) {
    const int64_t skip = distance / 64, shift = distance % 64;
    for (int64_t w = 0; w + skip < words; w += kVectorWords) {
      Vector shifted = vector_at(row + w + skip);
      if (shift != 0)
        shifted = (shifted >> shift) | (vector_at(row + w + skip + 1) << (64 - shift));
      vector_at(row + w) |= shifted;
    }
  };
  int64_t window = 1;
  for (; 2 * window <= size; window *= 2) shift_in(window);
  if (window < size) shift_in(size - window);
}

int64_t first_bit(const uint64_t* row, int64_t words) {
  for (int64_t w = 0; w < words; ++w)
    if (row[w] != 0) return 64 * w + std::countr_zero(row[w]);
  return 64 * words;
}

template <class Isa>
FRACTALKERN_INLINE void count_row_body(const CountRow& r) {
  const LastAxis& axis = r.axis;
  const int64_t origins = static_cast<int64_t>(axis.origins.size());
  const int64_t base = 64 * r.first_word;
  const int64_t begin = base;
  const int64_t end = std::min(base + 64 * r.own_words, axis.starts_end());

  // The box that the array's edge cuts open lies before the first start.
  if (begin == 0 && !axis.crop && origins > 1) {
    int64_t both = first_bit(r.one, r.words);
    if (axis.mixed) both = std::max(both, first_bit(r.zero, r.words));
    for (int64_t j = 1; j < origins; ++j)
      r.counts[j] += both < std::min(axis.size - axis.origins[j], axis.cells);
  }
  const auto first_start = [&](int64_t j) {
    const int64_t phase = axis.origins[j] == 0 ? 0 : axis.size - axis.origins[j];
    return phase >= begin ? phase : phase + ceil_div(begin - phase, axis.size) * axis.size;
  };

  constexpr int64_t kScannedOrigins = 4;
  if (axis.size >= 64 && origins <= kScannedOrigins) {
    for (int64_t j = 0; j < origins; ++j) {
      int64_t count = 0;
      for (int64_t p = first_start(j); p < end; p += axis.size) {
        const int64_t stop = (axis.size < axis.cells - p ? p + axis.size : axis.cells) - base;
        count += any_bit(r.one, p - base, stop) && (!axis.mixed || any_bit(r.zero, p - base, stop));
      }
      r.counts[j] += count;
    }
    return;
  }

  const int64_t stride = padded(r.words);
  const int64_t size = std::min(axis.size, axis.cells);
  for (int plane = 0; plane < (axis.mixed ? 2 : 1); ++plane) {
    uint64_t* const row = r.scratch + plane * stride;
    std::memcpy(row, plane == 0 ? r.one : r.zero, static_cast<size_t>(r.words) * 8);
    std::fill(row + r.words, row + stride, 0);
    dilate(row, r.words, size);
  }
  uint64_t* const touched = r.scratch;
  if (axis.mixed)
    for (int64_t w = 0; w < r.own_words; ++w) touched[w] &= touched[stride + w];
  if (axis.size >= 64) {
    for (int64_t j = 0; j < origins; ++j) {
      int64_t count = 0;
      for (int64_t p = first_start(j); p < end; p += axis.size)
        count += touched[(p - base) / 64] >> ((p - base) % 64) & 1;
      r.counts[j] += count;
    }
    return;
  }
  for (int64_t w = std::max<int64_t>(end - base, 0) / 64; w < r.own_words; ++w)
    touched[w] &= low_bits(end - base - 64 * w);
  for (int64_t j = 0; j < origins; ++j) {
    const uint64_t* const starts = axis.starts.data() + j * axis.size;
    int64_t count = 0, phase = r.first_word % axis.size;
    for (int64_t w = 0; w < r.own_words; ++w) {
      count += popcount<Isa>(touched[w] & starts[phase]);
      if (++phase == axis.size) phase = 0;
    }
    r.counts[j] += count;
  }
}
FRACTALKERN_ENTRY_POINTS(count_row_entry, count_row_body, CountRow)

std::vector<int64_t> origins_of(int64_t size, int64_t offsets) {
  std::vector<int64_t> origins(static_cast<size_t>(box_count_origins(size, offsets)));
  const auto count = static_cast<__int128>(origins.size());
  for (size_t j = 0; j < origins.size(); ++j)
    origins[j] = static_cast<int64_t>(static_cast<__int128>(j) * size / count);
  return origins;
}

// Ascending positions, 0 and `cells` included, at which some box of these sizes begins or ends.
std::vector<int64_t> refinement(int64_t cells, const int64_t* sizes, int64_t size_count,
                                int64_t offsets, int64_t longest) {
  std::vector<uint8_t> is_cut(static_cast<size_t>(cells + 1));
  is_cut[0] = is_cut[static_cast<size_t>(cells)] = 1;
  for (int64_t position = 0; position < cells; position += longest)
    is_cut[static_cast<size_t>(position)] = 1;
  for (int64_t i = 0; i < size_count; ++i) {
    if (box_count_origins(sizes[i], offsets) == sizes[i]) {
      std::fill(is_cut.begin(), is_cut.end(), 1);
      break;
    }
    for (const int64_t origin : origins_of(sizes[i], offsets))
      for (int64_t cut = origin == 0 ? 0 : sizes[i] - origin; cut < cells; cut += sizes[i])
        is_cut[static_cast<size_t>(cut)] = 1;
  }
  std::vector<int64_t> cuts;
  for (int64_t position = 0; position <= cells; ++position)
    if (is_cut[static_cast<size_t>(position)]) cuts.push_back(position);
  return cuts;
}

int64_t index_of(const std::vector<int64_t>& cuts, int64_t position) {
  return std::lower_bound(cuts.begin(), cuts.end(), position) - cuts.begin();
}

Boxes boxes_of(const std::vector<int64_t>& cuts, int64_t size, int64_t offsets, bool crop) {
  const int64_t cells = cuts.back();
  Boxes boxes;
  for (const int64_t origin : origins_of(size, offsets)) {
    boxes.begin.push_back(static_cast<int64_t>(boxes.range.size()));
    for (int64_t start = -origin; start < cells; start += size) {
      const bool cut_open = start < 0 || size > cells - start;
      if (crop && cut_open) continue;
      const int64_t end = size > cells - start ? cells : start + size;
      boxes.range.emplace_back(index_of(cuts, std::max<int64_t>(start, 0)), index_of(cuts, end));
    }
  }
  boxes.begin.push_back(static_cast<int64_t>(boxes.range.size()));
  return boxes;
}

// One task of a reduction, for one item: cells [begin[k], end[k]) of the coarser lattice, words
// [first_word, last_word) of its rows.
struct Reduction {
  const uint8_t* bytes;              // [items, *leading axes, cells] or null: then
  const Lattice* from;               // ... the source is this lattice
  int64_t cells;                     // of the last axis
  const std::vector<int64_t>* cuts;  // [axes]: cell j along axis k is made of cells
                                     // cuts[k][j] .. cuts[k][j + 1] - 1 of the source
  Lattice* to;
};

struct ReductionTask {
  const Reduction& reduction;
  int64_t item, first_word, last_word;
  Shape begin, end;
  uint64_t* scratch;

  // Not inlined into itself: gcc cannot see that `axis` stays within the arrays.
  __attribute__((noinline)) void run(int axis, int64_t source_row, int64_t target_row,
                                     bool assign) const {
    const Reduction& r = reduction;
    const auto& cuts = r.cuts[axis];
    const int64_t source_cells = cuts.back();
    for (int64_t j = begin[axis]; j < end[axis]; ++j) {
      for (int64_t i = cuts[j]; i < cuts[j + 1]; ++i) {
        const int64_t source = source_row * source_cells + i;
        const int64_t target = target_row * r.to->leading.cells[axis] + j;
        const bool first = assign && i == cuts[j];
        if (axis + 1 < r.to->leading.axes) {
          run(axis + 1, source, target, first);
        } else {
          reduce_row(source, target, first);
        }
      }
    }
  }

  void reduce_row(int64_t source, int64_t target, bool assign) const {
    const Reduction& r = reduction;
    uint64_t* const to = r.to->bits.get() + target * r.to->row_stride() + first_word;
    if (r.bytes != nullptr) {
      const int64_t first = 64 * first_word;
      pack_row_entry.active()(
          PackRow{r.bytes + source * r.cells + first, std::min(64 * last_word, r.cells) - first, to,
                  r.to->planes == 2 ? to + r.to->words : nullptr, assign, scratch});
      return;
    }
    const uint64_t* const from = r.from->bits.get() + source * r.from->row_stride() + first_word;
    for (int plane = 0; plane < r.to->planes; ++plane)
      or_rows_entry.active()(OrRows{from + plane * r.from->words, 1, 0, last_word - first_word,
                                    to + plane * r.to->words, assign});
  }
};

void reduce(const Reduction& r, const Parallel& parallel) {
  constexpr int64_t kChunkWords = 512;
  const Leading& leading = r.to->leading;
  const int64_t tasks_wanted = 16 * parallel.threads();
  // Tasks: item, cell along axis 0, block of cells along axis 1, chunk of words.
  const int64_t chunks = ceil_div(r.to->words, kChunkWords);
  const int64_t outer = r.to->items * leading.cells[0] * chunks;
  const int64_t blocks =
      leading.axes == 1
          ? 1
          : std::min(leading.cells[1], ceil_div(tasks_wanted, std::max<int64_t>(outer, 1)));
  int64_t source_rows = r.to->items;
  for (int k = 0; k < leading.axes; ++k) source_rows *= r.cuts[k].back();
  const int64_t units = outer * blocks;
  const int64_t tasks = std::min(units, 4 * tasks_wanted);
  const int64_t bytes = source_rows * (r.bytes != nullptr ? r.cells : 8 * r.to->row_stride());
  parallel.for_each(tasks, bytes / 8, [&](int64_t t) {
    std::array<uint64_t, kChunkWords> scratch;
    for (int64_t unit = t * units / tasks; unit < (t + 1) * units / tasks; ++unit) {
      int64_t rest = unit;
      const int64_t chunk = rest % chunks;
      const int64_t block = (rest /= chunks) % blocks;
      const int64_t cell = (rest /= blocks) % leading.cells[0];
      const int64_t item = rest / leading.cells[0];
      ReductionTask task{
          r,  item,          chunk * kChunkWords, std::min(r.to->words, (chunk + 1) * kChunkWords),
          {}, leading.cells, scratch.data()};
      task.begin[0] = cell;
      task.end[0] = cell + 1;
      if (leading.axes > 1) {
        task.begin[1] = block * leading.cells[1] / blocks;
        task.end[1] = (block + 1) * leading.cells[1] / blocks;
      }
      task.run(0, item, item, true);
    }
  });
}

// Counts one size on a lattice whose cuts include all of its boxes' edges.
struct Stage {
  const Lattice& lattice;
  const Boxes* boxes;  // [leading axes]
  const LastAxis& last;
  int64_t* counts;        // [items], the first grid of this size
  int64_t counts_stride;  // from item to item

  // Boxes [begin, end) of origin `origin` along axis 0; boxes that start in the given words.
  void run(int64_t item, int64_t origin, int64_t begin, int64_t end, int64_t first_word,
           int64_t last_word, std::vector<int64_t>& local, std::vector<uint64_t>& scratch) const {
    const Leading& leading = lattice.leading;
    const int64_t halo = ceil_div(std::min(last.size, last.cells), 64) + 1;
    const int64_t words = std::min(last_word + halo, lattice.words) - first_word;
    const int64_t row = lattice.planes * words;

    int64_t largest = leading.rows() / leading.cells[0], product = largest, rows = 1;
    for (int k = 1; k < leading.axes; ++k) {
      product = product / leading.cells[k] * static_cast<int64_t>(boxes[k].range.size());
      largest = std::max(largest, product);
      rows *= static_cast<int64_t>(boxes[k].range.size());
    }
    scratch.resize(static_cast<size_t>(2 * largest * row + 2 * padded(words)));
    uint64_t* const row_scratch = scratch.data() + 2 * largest * row;

    const int64_t last_origins = static_cast<int64_t>(last.origins.size());
    int64_t grids = last_origins;
    for (int k = 1; k < leading.axes; ++k) grids *= boxes[k].origins();
    local.assign(static_cast<size_t>(grids), 0);

    const auto or_rows = or_rows_entry.active();
    const auto count_row = count_row_entry.active();
    const int64_t inner_rows = leading.rows() / leading.cells[0];
    for (int64_t b = begin; b < end; ++b) {
      const auto [low, high] = boxes[0].range[boxes[0].begin[origin] + b];
      uint64_t* plane = scratch.data();
      uint64_t* other = plane + largest * row;
      const int64_t stride = inner_rows * lattice.row_stride();
      const uint64_t* const from =
          lattice.bits.get() + item * lattice.item_stride() + low * stride + first_word;
      if (words == lattice.words) {
        or_rows(OrRows{from, high - low, stride, inner_rows * row, plane, true});
      } else {
        for (int64_t i = 0; i < inner_rows * lattice.planes; ++i)
          or_rows(
              OrRows{from + i * lattice.words, high - low, stride, words, plane + i * words, true});
      }

      int64_t outer = 1, inner = inner_rows * row;  // plane: [outer, cells[k], inner]
      for (int k = 1; k < leading.axes; ++k) {
        const auto& ranges = boxes[k].range;
        const int64_t cells = leading.cells[k];
        inner /= cells;
        uint64_t* to = other;
        for (int64_t i = 0; i < outer; ++i) {
          for (const auto& [first, second] : ranges) {
            or_rows(OrRows{plane + (i * cells + first) * inner, second - first, inner, inner, to,
                           true});
            to += inner;
          }
        }
        outer *= static_cast<int64_t>(ranges.size());
        std::swap(plane, other);
      }

      for (int64_t i = 0; i < rows; ++i) {
        int64_t rest = i, grid = 0, scale = last_origins;
        for (int k = leading.axes - 1; k >= 1; --k) {
          const auto along = static_cast<int64_t>(boxes[k].range.size());
          const auto& starts = boxes[k].begin;
          const int64_t place = rest % along;
          rest /= along;
          grid +=
              scale * (std::upper_bound(starts.begin(), starts.end(), place) - starts.begin() - 1);
          scale *= boxes[k].origins();
        }
        const uint64_t* const one = plane + i * row;
        count_row(CountRow{last, one, one + words, first_word, last_word - first_word, words,
                           row_scratch, local.data() + grid});
      }
    }
    int64_t* const target = counts + item * counts_stride + origin * grids;
    for (int64_t g = 0; g < grids; ++g) add(target[g], local[static_cast<size_t>(g)]);
  }
};

void count_stage(const Stage& stage, const Parallel& parallel) {
  const Lattice& lattice = stage.lattice;
  const Boxes& boxes = stage.boxes[0];
  const int64_t chunk_words =
      std::max<int64_t>(2048, ceil_div(std::min(stage.last.size, stage.last.cells), 32));
  const int64_t chunks = ceil_div(lattice.words, chunk_words);
  const int64_t units = lattice.items * boxes.origins() * chunks;
  const int64_t widest = ceil_div(static_cast<int64_t>(boxes.range.size()), boxes.origins());
  const int64_t tasks_wanted = 8 * parallel.threads();
  const int64_t blocks =
      std::clamp<int64_t>(ceil_div(tasks_wanted, units), 1, std::max<int64_t>(widest, 1));
  const int64_t tasks = std::min(units * blocks, 4 * tasks_wanted);
  const int64_t work =
      8 * lattice.items * lattice.item_stride() * static_cast<int64_t>(stage.last.origins.size());
  parallel.for_each(tasks, work, [&](int64_t t) {
    std::vector<int64_t> local;
    std::vector<uint64_t> scratch;
    const int64_t stop = (t + 1) * units * blocks / tasks;
    for (int64_t unit = t * units * blocks / tasks; unit < stop; ++unit) {
      int64_t rest = unit;
      const int64_t block = rest % blocks;
      const int64_t chunk = (rest /= blocks) % chunks;
      const int64_t origin = (rest /= chunks) % boxes.origins();
      const int64_t item = rest / boxes.origins();
      const int64_t count = boxes.begin[origin + 1] - boxes.begin[origin];
      stage.run(item, origin, block * count / blocks, (block + 1) * count / blocks,
                chunk * chunk_words, std::min((chunk + 1) * chunk_words, lattice.words), local,
                scratch);
    }
  });
}

void count_any_sizes(const BoxCount& p, const Parallel& parallel) {
  const int64_t row_grids = box_count_grids(p.dims, p.sizes, p.size_count, p.offsets);
  std::fill_n(p.counts, p.batch * row_grids, 0);
  std::vector<int64_t> sizes(p.sizes, p.sizes + p.size_count);
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  const auto size_count = static_cast<int64_t>(sizes.size());

  Leading array{std::max(p.dims - 1, 1), {1}};
  std::copy_n(p.shape, p.dims - 1, array.cells.begin());
  const int64_t cells = p.shape[p.dims - 1];
  const int64_t words = ceil_div(cells, 64);
  if (p.batch == 0 || size_count == 0 || array.rows() * cells == 0) return;

  const auto cuts_from = [&](int64_t first_size, int64_t pieces) {
    std::array<std::vector<int64_t>, kBoxCountMaxDims> cuts;
    for (int k = 0; k < array.axes; ++k) {
      const int64_t n = array.cells[k];
      const int64_t longest = k == 0 ? ceil_div(n, pieces) : n;
      if (p.dims == 1) {
        cuts[k] = {0, 1};
      } else {
        cuts[k] =
            refinement(n, sizes.data() + first_size, size_count - first_size, p.offsets, longest);
      }
    }
    return cuts;
  };
  const auto cells_of = [&](const auto& cuts) {
    Leading leading{array.axes, {}};
    for (int k = 0; k < array.axes; ++k)
      leading.cells[k] = static_cast<int64_t>(cuts[k].size()) - 1;
    return leading;
  };

  // Several small masks at a time, as many as share a core's cache with their lattices.
  constexpr int64_t kGroupWords = 1 << 16;
  const auto finest = cuts_from(0, 16 * parallel.threads());
  const int planes = p.mixed ? 2 : 1;
  const int64_t item_words = cells_of(finest).rows() * words * planes;
  const int64_t group =
      std::clamp<int64_t>(kGroupWords * parallel.threads() / item_words, 1, p.batch);

  for (int64_t first_item = 0; first_item < p.batch; first_item += group) {
    const int64_t items = std::min(group, p.batch - first_item);
    auto cuts = finest;
    Lattice lattice{cells_of(cuts), items, words, planes, nullptr};
    lattice.bits = std::make_unique_for_overwrite<uint64_t[]>(
        static_cast<size_t>(items * lattice.item_stride()));
    reduce(Reduction{p.mask + first_item * array.rows() * cells, nullptr, cells, cuts.data(),
                     &lattice},
           parallel);

    for (int64_t i = 0; i < size_count; ++i) {
      const int64_t size = sizes[static_cast<size_t>(i)];
      auto coarser = cuts_from(i, 1);
      Leading coarser_cells = cells_of(coarser);
      if (4 * coarser_cells.rows() <= 3 * lattice.leading.rows()) {
        Lattice merged{coarser_cells, items, words, planes, nullptr};
        merged.bits = std::make_unique_for_overwrite<uint64_t[]>(
            static_cast<size_t>(items * merged.item_stride()));
        auto indices = coarser;
        for (int k = 0; k < array.axes; ++k)
          for (int64_t& position : indices[k]) position = index_of(cuts[k], position);
        reduce(Reduction{nullptr, &lattice, cells, indices.data(), &merged}, parallel);
        lattice = std::move(merged);
        cuts = std::move(coarser);
      }

      LastAxis last{size, cells, p.mixed, p.crop, origins_of(size, p.offsets), {}};
      if (size < 64) {
        for (const int64_t origin : last.origins) {
          for (int64_t w = 0; w < size; ++w) {
            uint64_t starts = 0;
            for (int64_t b = 0; b < 64; ++b)
              starts |= static_cast<uint64_t>((64 * w + b + origin) % size == 0) << b;
            last.starts.push_back(starts);
          }
        }
      }
      std::array<Boxes, kBoxCountMaxDims> boxes;
      if (p.dims == 1) {
        boxes[0] = Boxes{{0, 1}, {{0, 1}}};
      } else {
        for (int k = 0; k < array.axes; ++k) boxes[k] = boxes_of(cuts[k], size, p.offsets, p.crop);
      }
      // The same size may have been asked for more than once.
      const int64_t grids = box_count_grids(p.dims, &size, 1, p.offsets);
      int64_t column = 0, counted_at = -1;
      for (int64_t j = 0; j < p.size_count; ++j) {
        int64_t* const counts = p.counts + first_item * row_grids + column;
        if (p.sizes[j] == size && counted_at < 0) {
          counted_at = column;
          count_stage(Stage{lattice, boxes.data(), last, counts, row_grids}, parallel);
        } else if (p.sizes[j] == size) {
          for (int64_t item = 0; item < items; ++item)
            std::copy_n(counts + item * row_grids + counted_at - column, grids,
                        counts + item * row_grids);
        }
        column += box_count_grids(p.dims, p.sizes + j, 1, p.offsets);
      }
    }
  }
}

}  // namespace

int64_t box_count_origins(int64_t size, int64_t offsets) {
  return offsets == 0 ? size : std::min(size, offsets);
}

int64_t box_count_grids(int dims, const int64_t* sizes, int64_t size_count, int64_t offsets) {
  int64_t total = 0;
  for (int64_t i = 0; i < size_count; ++i) {
    int64_t grids = 1;
    for (int k = 0; k < dims; ++k)
      if (__builtin_mul_overflow(grids, box_count_origins(sizes[i], offsets), &grids)) return -1;
    if (__builtin_add_overflow(total, grids, &total)) return -1;
  }
  return total;
}

void box_count_cpu(const BoxCount& problem, const Parallel& parallel) {
  const bool pyramid =
      problem.offsets == 1 &&
      std::all_of(problem.sizes, problem.sizes + problem.size_count, is_power_of_two);
  if (pyramid) {
    count_powers_of_two(problem, parallel);
  } else {
    count_any_sizes(problem, parallel);
  }
}

}  // namespace fractalkern
