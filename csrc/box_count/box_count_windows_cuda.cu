// Any sizes and origins: an image of windows. The mask is read once and packed to an image of bits;
// then, size after size (ascending), the image of windows grows: bit p of it says whether the cells
// [p, p + window) along every axis hold one of the set. A box of any place is covered by windows
// that may overlap, window <= size, so it costs a few bits, whatever its size. Images reach
// window - 1 positions past the array's near sides where boxes do: partial boxes need no care.
//
// Boxes of up to 64 cells are counted word by word: a warp takes a row of boxes, ORs the rows of
// windows under it, widens the windows of 64 neighbouring starts to the size by shifts, and counts
// the bits at the starts of each origin. Larger boxes take a thread each, neighbours along the last
// axis beside one another, whatever their origins.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "box_count/box_count_cuda.h"
#include "box_count/box_count_math.h"
#include "common/cuda_launch.h"

namespace fractalkern {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;
constexpr int64_t kLargestByWords = 64;  // cells along the edge of a box that is counted so
constexpr int64_t kSegmentWords = 256;   // of a row, for one warp

__device__ int64_t first_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }
__device__ int64_t index_step() { return int64_t{gridDim.x} * kThreads; }

unsigned blocks_for(int64_t threads, const CudaStream& stream) {
  return static_cast<unsigned>(std::min<int64_t>(
      ceil_div(threads, kThreads), int64_t{kBlocksPerMultiprocessor} * multiprocessors(stream)));
}

struct Packing {
  const uint8_t* mask;  // [rows, cells]
  int64_t rows, cells;
  int64_t words;         // of a packed row
  uint16_t *one, *zero;  // [rows, 4 * words], written; zero, the complement, may be null
};

__global__ void box_count_kernel_pack(const __grid_constant__ Packing p) {
  const int64_t chunks = 4 * p.words;
  const uint8_t* const end = p.mask + p.rows * p.cells;
  for (int64_t i = first_index(); i < p.rows * chunks; i += index_step()) {
    const int64_t row = i / chunks, first = 16 * (i - row * chunks);
    const auto valid = static_cast<uint32_t>(low_bits(p.cells - first)) & 0xffffu;
    const uint32_t bits = load_16_cells(p.mask + row * p.cells + first, valid, p.mask, end);
    p.one[i] = static_cast<uint16_t>(bits);
    if (p.zero != nullptr) p.zero[i] = static_cast<uint16_t>(~bits & valid);
  }
}

// Bit b of word w of a row is position 64 * w + b - bit_pad along the last axis; row r along axis k
// is position r - pad.
struct Image {
  uint64_t *one, *zero;  // [batch, *rows, words]; zero tells of cells outside the set, or is null
  int64_t window;
  int64_t pad, bit_pad;  // bit_pad is a multiple of 64
  int64_t rows[kBoxCountMaxDims], words;
  int64_t rows_per_item;

  __device__ uint64_t word(const uint64_t* plane, int64_t row, int64_t w) const {
    return w >= 0 && w < words ? plane[row * words + w] : 0;
  }
};

// Calls visit(position) for windows that cover the cells [start, start + size) of an axis, as far
// as they begin at `first` or later and before `limit`. start + size > 0.
template <class Visit>
__device__ __forceinline__ void for_each_window(int64_t start, int64_t size, int64_t window,
                                                int64_t first, int64_t limit, const Visit& visit) {
  const int64_t last = start + size - window;
  int64_t position = start > -window ? start : start + -start / window * window;
  for (;; position += window) {
    const int64_t at = position < last ? position : last;
    if (at >= limit) return;
    if (at >= first) visit(at);
    if (at == last) return;
  }
}

// Calls visit(row) for the rows of an image under a box of these sides.
template <int kAxis, int kDims, class Visit>
__device__ __forceinline__ void for_each_row(const Image& image, const int64_t (&start)[kDims],
                                             const int64_t (&side)[kDims], int64_t row,
                                             const Visit& visit) {
  if constexpr (kAxis == kDims - 1) {
    visit(row);
  } else {
    for_each_window(start[kAxis], side[kAxis], image.window, -image.pad,
                    image.rows[kAxis] - image.pad, [&](int64_t position) {
                      for_each_row<kAxis + 1, kDims>(image, start, side,
                                                     row * image.rows[kAxis] + position + image.pad,
                                                     visit);
                    });
  }
}

// The word of windows `size` long along the last axis, whatever lies under a box along the others.
template <int kDims>
__device__ __forceinline__ uint64_t or_under_box(const Image& image, const uint64_t* plane,
                                                 const int64_t (&start)[kDims],
                                                 const int64_t (&side)[kDims], int64_t item,
                                                 int64_t w) {
  const int64_t size = side[kDims - 1];
  uint64_t low = 0, high = 0;
  for_each_row<0, kDims>(image, start, side, item, [&](int64_t row) {
    low |= image.word(plane, row, w);
    if (image.window < 64) {
      high |= image.word(plane, row, w + 1);
    } else {
      for (int64_t at = image.window; at < size; at += image.window)
        low |= image.word(plane, row, w + at / 64);
    }
  });
  return image.window < 64 ? widen(low, high, image.window, size) : low;
}

// `to` from `from`: windows factor times as long.
struct Growth {
  Image from, to;
  int64_t batch;
  int64_t groups;  // of rows along the last axis but one
};

// A thread makes kFactor words, kFactor rows that lie a window apart along the last axis but one,
// from the 2 * kFactor - 1 rows that they are made of, merging these pair by pair.
template <int kDims, int kFactor>
__global__ void box_count_kernel_grow(const __grid_constant__ Growth p) {
  constexpr int kAlong = kDims > 1 ? kDims - 2 : 0;  // the axis of the rows that lie together
  constexpr int kRows = kDims > 1 ? kFactor : 1;
  const int64_t window = p.from.window;
  int64_t threads = p.batch * p.groups * p.to.words;
  for (int k = 0; k < kAlong; ++k) threads *= p.to.rows[k];
  for (int64_t i = first_index(); i < threads; i += index_step()) {
    int64_t rest = i / p.to.words;
    const int64_t to_word = i - rest * p.to.words;
    const int64_t w = to_word + (p.from.bit_pad - p.to.bit_pad) / 64;
    int64_t start[kDims], side[kDims];
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = kDims - 2; k >= 0; --k) {
      const int64_t count = k == kAlong ? p.groups : p.to.rows[k];
      const int64_t above = rest / count;
      start[k] = rest - above * count;
      side[k] = p.to.window;
      rest = above;
    }
    side[kDims - 1] = p.to.window;
    int64_t first_row = rest;
    if constexpr (kDims > 1) {
      const int64_t block = start[kAlong] / window;
      start[kAlong] += block * (kRows - 1) * window;
      side[kAlong] = window;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int k = 0; k < kDims - 1; ++k) {
        first_row = first_row * p.to.rows[k] + start[k];
        start[k] -= p.to.pad;
      }
    }
    for (int plane = 0; plane < (p.from.zero != nullptr ? 2 : 1); ++plane) {
      const uint64_t* const from = plane == 0 ? p.from.one : p.from.zero;
      uint64_t* const to = plane == 0 ? p.to.one : p.to.zero;
      uint64_t row[2 * kRows - 1];
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int r = 0; r < 2 * kRows - 1; ++r) {
        int64_t here[kDims];
        FRACTALKERN_UNROLL_ON_DEVICE
        for (int k = 0; k < kDims - 1; ++k) here[k] = start[k] + (k == kAlong ? r * window : 0);
        row[r] = or_under_box<kDims>(p.from, from, here, side, rest, w);
      }
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int step = 1; step < kRows; step *= 2) {
        FRACTALKERN_UNROLL_ON_DEVICE
        for (int r = 0; r + step < 2 * kRows - 1; ++r) row[r] |= row[r + step];
      }
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int r = 0; r < kRows; ++r) {
        const bool exists = kDims == 1 || start[kAlong] + p.to.pad + r * window < p.to.rows[kAlong];
        if (exists) to[(first_row + r * window) * p.to.words + to_word] = row[r];
      }
    }
  }
}

// All boxes of one size. Along an axis their starts have numbers in ascending order: start q of
// `origins` origins is that of origin number origins - 1 - q % origins.
struct Boxes {
  Image image;
  int64_t batch;
  int64_t shape[kBoxCountMaxDims];
  int64_t size, origins;
  bool crop;
  int64_t starts[kBoxCountMaxDims];  // along each axis
  int64_t first_word, last_word;     // of starts along the last axis
  int64_t segments;                  // that they are cut into
  int64_t* counts;                   // of the first grid of this size
  int64_t counts_stride;             // from mask to mask
};

// Where box number `number` lies along an axis and which origin it has; false if it does not count.
template <int kAxis>
__device__ __forceinline__ bool find_box(const Boxes& p, int64_t number, int64_t& start,
                                         int64_t& origin) {
  const int64_t box = p.origins == 1 ? number : number / p.origins;
  origin = p.origins - 1 - (number - box * p.origins);
  start = box * p.size - (origin == 0 ? 0 : box_origin(origin, p.size, p.origins));
  if (p.crop) return start >= 0 && p.size <= p.shape[kAxis] - start;
  return start < p.shape[kAxis];
}

// Finds the place along the axes before `kAxis` from the rest of an index, the last axis fastest.
template <int kAxis, int kDims>
__device__ __forceinline__ bool find_boxes(const Boxes& p, int64_t& rest, int64_t (&start)[kDims],
                                           int64_t (&origin)[kDims]) {
  if constexpr (kAxis >= 0) {
    const int64_t above = rest / p.starts[kAxis];
    const bool counts =
        find_box<kAxis>(p, rest - above * p.starts[kAxis], start[kAxis], origin[kAxis]);
    rest = above;
    return find_boxes<kAxis - 1, kDims>(p, rest, start, origin) && counts;
  }
  return true;
}

template <int kDims>
__global__ void box_count_kernel_words(const __grid_constant__ Boxes p) {
  constexpr int kLast = kDims - 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t units = p.batch * p.segments;
  for (int k = 0; k < kLast; ++k) units *= p.starts[k];
  for (int64_t unit = first_index() / kWarp; unit < units; unit += index_step() / kWarp) {
    int64_t rest = unit / p.segments;
    const int64_t segment = unit - rest * p.segments;
    int64_t start[kDims], side[kDims], origin[kDims];
    if (!find_boxes<kLast - 1, kDims>(p, rest, start, origin)) continue;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = 0; k < kDims; ++k) side[k] = p.size;
    int64_t grid = 0;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = 0; k < kLast; ++k) grid = grid * p.origins + origin[k];

    // Lane l keeps the counts of origins l and l + 32 along the last axis.
    unsigned count[2] = {};
    const int64_t begin = p.first_word + segment * kSegmentWords;
    const int64_t end = begin + kSegmentWords < p.last_word ? begin + kSegmentWords : p.last_word;
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t word = first + lane, w = word + p.image.bit_pad / 64;
      uint64_t touched = 0;
      if (word < end) {
        touched = or_under_box<kDims>(p.image, p.image.one, start, side, rest, w);
        if (p.image.zero != nullptr)
          touched &= or_under_box<kDims>(p.image, p.image.zero, start, side, rest, w);
      }
      if (p.crop) touched &= low_bits(p.shape[kLast] - p.size + 1 - 64 * word);
      for (int64_t j = 0; j < p.origins; ++j) {
        const int64_t from = j == 0 ? 0 : box_origin(j, p.size, p.origins);
        auto boxes = static_cast<unsigned>(__popcll(touched & box_starts(64 * word, from, p.size)));
        if (p.origins > 1) {
          boxes = __reduce_add_sync(kWholeWarp, boxes);
          if (lane != j % kWarp) boxes = 0;
        }
        count[0] += j < kWarp ? boxes : 0;
        count[1] += j < kWarp ? 0 : boxes;
      }
    }
    if (p.origins == 1) {
      count[0] = __reduce_add_sync(kWholeWarp, count[0]);
      if (lane > 0) count[0] = 0;
    }
    int64_t* const target = p.counts + rest * p.counts_stride + grid * p.origins + lane;
    for (int half = 0; half < 2; ++half)
      if (count[half] != 0)
        atomicAdd(reinterpret_cast<unsigned long long*>(target + half * kWarp), count[half]);
  }
}

template <int kDims>
__global__ void box_count_kernel_boxes(const __grid_constant__ Boxes p) {
  constexpr int kLast = kDims - 1;
  int64_t boxes = p.batch;
  for (int k = 0; k < kDims; ++k) boxes *= p.starts[k];
  int64_t pending = 0;  // the grid that `count` belongs to
  unsigned count = 0;
  for (int64_t i = first_index(); i < boxes; i += index_step()) {
    int64_t item = i;
    int64_t start[kDims], side[kDims], origin[kDims];
    if (!find_boxes<kLast, kDims>(p, item, start, origin)) continue;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = 0; k < kDims; ++k) side[k] = p.size;
    bool one = false, zero = p.image.zero == nullptr;
    for_each_row<0, kDims>(p.image, start, side, item, [&](int64_t row) {
      if (one && zero) return;
      for_each_window(start[kLast], p.size, p.image.window, -p.image.bit_pad, p.shape[kLast],
                      [&](int64_t position) {
                        const int64_t bit = position + p.image.bit_pad;
                        const int64_t at = row * p.image.words + bit / 64;
                        one |= (p.image.one[at] >> (bit % 64) & 1) != 0;
                        if (p.image.zero != nullptr)
                          zero |= (p.image.zero[at] >> (bit % 64) & 1) != 0;
                      });
    });
    if (!one || !zero) continue;
    int64_t grid = 0;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = 0; k < kDims; ++k) grid = grid * p.origins + origin[k];
    grid += item * p.counts_stride;
    if (grid != pending) {
      if (count != 0) atomicAdd(reinterpret_cast<unsigned long long*>(p.counts + pending), count);
      pending = grid;
      count = 0;
    }
    ++count;
  }
  // One addition a warp where all its boxes are of one grid.
  const unsigned counting = __ballot_sync(kWholeWarp, count != 0);
  if (counting == 0) return;
  const int speaker = __ffs(static_cast<int>(counting)) - 1;
  const int64_t common = __shfl_sync(kWholeWarp, pending, speaker);
  if (__all_sync(kWholeWarp, count == 0 || pending == common)) {
    const unsigned total = __reduce_add_sync(kWholeWarp, count);
    count = static_cast<int>(threadIdx.x) % kWarp == speaker ? total : 0;
  }
  if (count != 0) atomicAdd(reinterpret_cast<unsigned long long*>(p.counts + pending), count);
}

// Images and counts of one problem, for a number of axes.
template <int kDims>
class Windows {
 public:
  Windows(const BoxCount& problem, const CudaStream& stream)
      : p_(problem), stream_(stream), padded_(!problem.crop && problem.offsets != 1) {
    longest_ = *std::max_element(p_.shape, p_.shape + kDims);
    image_ = make_image(1);
    const int64_t rows = p_.batch * image_.rows_per_item;
    const Packing packing{p_.mask,
                          rows,
                          p_.shape[kDims - 1],
                          image_.words,
                          reinterpret_cast<uint16_t*>(image_.one),
                          reinterpret_cast<uint16_t*>(image_.zero)};
    launch("box_count", &box_count_kernel_pack, blocks_for(rows * image_.words * 4, stream_),
           kThreads, 0, stream_, packing);
  }

  // To be called with ascending sizes.
  void count(int64_t size, int64_t* counts, int64_t counts_stride) {
    const int64_t enough = std::min(size, longest_);
    while (image_.window * factor() < enough) grow();

    Boxes boxes{};
    boxes.image = image_;
    boxes.batch = p_.batch;
    boxes.size = size;
    boxes.origins = box_count_origins(size, p_.offsets);
    boxes.crop = p_.crop;
    boxes.counts = counts;
    boxes.counts_stride = counts_stride;
    const int64_t farthest = box_origin(boxes.origins - 1, size, boxes.origins);
    int64_t rows = p_.batch;
    for (int k = 0; k < kDims; ++k) {
      boxes.shape[k] = p_.shape[k];
      boxes.starts[k] = boxes.origins * ceil_div(p_.shape[k] + farthest, size);
      if (k < kDims - 1) rows *= boxes.starts[k];
    }
    if (size <= kLargestByWords) {
      boxes.first_word = padded_ ? -1 : 0;
      boxes.last_word = ceil_div(p_.shape[kDims - 1], 64);
      boxes.segments = ceil_div(boxes.last_word - boxes.first_word, kSegmentWords);
      launch("box_count", &box_count_kernel_words<kDims>,
             blocks_for(rows * boxes.segments * kWarp, stream_), kThreads, 0, stream_, boxes);
    } else {
      launch("box_count", &box_count_kernel_boxes<kDims>,
             blocks_for(rows * boxes.starts[kDims - 1], stream_), kThreads, 0, stream_, boxes);
    }
  }

 private:
  // As large as keeps the rows that a word is made of at some tens.
  static constexpr int kFactor = kDims <= 2 ? 8 : kDims == 3 ? 4 : 2;
  static constexpr int kFactorOfWords = kDims <= 2 ? 4 : kFactor;  // for windows of whole words

  int factor() const { return image_.window < 64 ? kFactor : kFactorOfWords; }

  void grow() {
    const Image grown = make_image(image_.window * factor());
    constexpr int kAlong = kDims > 1 ? kDims - 2 : 0;
    Growth growth{image_, grown, p_.batch, 1};
    if (kDims > 1) growth.groups = ceil_div(grown.rows[kAlong], grown.window) * image_.window;
    int64_t threads = p_.batch * growth.groups * grown.words;
    for (int k = 0; k < kAlong; ++k) threads *= grown.rows[k];
    const auto kernel = image_.window < 64 ? &box_count_kernel_grow<kDims, kFactor>
                                           : &box_count_kernel_grow<kDims, kFactorOfWords>;
    launch("box_count", kernel, blocks_for(threads, stream_), kThreads, 0, stream_, growth);
    image_ = grown;
  }

  Image make_image(int64_t window) const {
    Image image{};
    image.window = window;
    image.pad = padded_ ? window - 1 : 0;
    image.bit_pad = ceil_div(image.pad, 64) * 64;
    image.words = ceil_div(p_.shape[kDims - 1] + image.bit_pad, 64);
    image.rows_per_item = 1;
    for (int k = 0; k < kDims - 1; ++k) {
      image.rows[k] = p_.shape[k] + image.pad;
      image.rows_per_item *= image.rows[k];
    }
    const int64_t bytes = 8 * p_.batch * image.rows_per_item * image.words;
    image.one = static_cast<uint64_t*>(stream_.scratch(bytes));
    image.zero = p_.mixed ? static_cast<uint64_t*>(stream_.scratch(bytes)) : nullptr;
    return image;
  }

  const BoxCount& p_;
  const CudaStream& stream_;
  bool padded_;
  int64_t longest_;
  Image image_;
};

template <int kDims>
void count_all(const BoxCount& p, const CudaStream& stream) {
  std::vector<int64_t> order;  // of the sizes, ascending
  for (int64_t i = 0; i < p.size_count; ++i) {
    const int64_t origins = box_count_origins(p.sizes[i], p.offsets);
    if (origins > int64_t{1} << 32 && p.sizes[i] % origins != 0)
      throw std::runtime_error("box_count: offsets must be at most 2^32 on a GPU, got " +
                               std::to_string(origins));
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return p.sizes[a] < p.sizes[b]; });
  const int64_t row = box_count_grids(kDims, p.sizes, p.size_count, p.offsets);
  Windows<kDims> windows(p, stream);
  for (const int64_t i : order)
    windows.count(p.sizes[i], p.counts + box_count_grids(kDims, p.sizes, i, p.offsets), row);
}

}  // namespace

void count_any_sizes(const BoxCount& problem, const CudaStream& stream) {
  constexpr void (*kCount[kBoxCountMaxDims])(const BoxCount&, const CudaStream&) = {
      &count_all<1>, &count_all<2>, &count_all<3>, &count_all<4>, &count_all<5>};
  kCount[problem.dims - 1](problem, stream);
}

}  // namespace fractalkern
