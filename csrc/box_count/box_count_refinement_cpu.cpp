// Any sizes and origins: common refinements. The edges of all boxes of all sizes and origins cut
// each leading axis into segments; the mask is read once and every cell of that product of segments
// is the OR of its rows (and, for rule mixed, of their complements). Each size is then counted on
// this lattice, and before the next size (ascending) segments that only smaller sizes had cut are
// merged where that saves a quarter of the rows. For the sizes that people use, nearly geometric,
// the lattices shrink so fast that all sizes together cost little beside the one read of the mask.
// A count task is a block of boxes along axis 0: their rows are ORed, then those of the boxes along
// the next axis, and so on. Along the last axis the row is dilated by doubling shifts and its bits
// are counted at the boxes' starts; for large sizes from few origins each box is searched instead,
// and most end at the first word.
//
// Tried and lost: a parallel region for every size, 1.4x slower at 4096^2 with ten sizes on a
// machine with other work, where a region waits for a time slice. Hence all counts in one region.
// Not tried: tables of the ORs of 2^m segments, which would let many origins share their sums.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "box_count/box_count_bits.h"

namespace fractalkern {
namespace {

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
  std::array<Boxes, kBoxCountMaxDims> boxes;  // [leading axes]
  LastAxis last;
  int64_t* counts;        // [items], the first grid of this size
  int64_t counts_stride;  // from item to item

  // Units of work: item, origin along axis 0, chunk of words, block of boxes along axis 0.
  int64_t chunk_words, chunks, blocks, units;

  void divide(int64_t tasks_wanted) {
    chunk_words = std::max<int64_t>(2048, ceil_div(std::min(last.size, last.cells), 32));
    chunks = ceil_div(lattice.words, chunk_words);
    units = lattice.items * boxes[0].origins() * chunks;
    const auto most_boxes =
        ceil_div(static_cast<int64_t>(boxes[0].range.size()), boxes[0].origins());
    blocks =
        std::clamp<int64_t>(ceil_div(tasks_wanted, units), 1, std::max<int64_t>(most_boxes, 1));
    units *= blocks;
  }

  int64_t work() const {
    return 8 * lattice.items * lattice.item_stride() * static_cast<int64_t>(last.origins.size());
  }

  void run_unit(int64_t unit, std::vector<int64_t>& local, std::vector<uint64_t>& scratch) const {
    const int64_t block = unit % blocks;
    const int64_t chunk = (unit /= blocks) % chunks;
    const int64_t origin = (unit /= chunks) % boxes[0].origins();
    const int64_t item = unit / boxes[0].origins();
    const int64_t count = boxes[0].begin[origin + 1] - boxes[0].begin[origin];
    run(item, origin, block * count / blocks, (block + 1) * count / blocks, chunk * chunk_words,
        std::min((chunk + 1) * chunk_words, lattice.words), local, scratch);
  }

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

// All stages in one parallel region: their lattices are there, and a region costs more than most.
void count_stages(std::vector<Stage>& stages, const Parallel& parallel) {
  const int64_t tasks_wanted = 8 * parallel.threads();
  std::vector<int64_t> first_task = {0};
  int64_t work = 0;
  for (Stage& stage : stages) {
    stage.divide(tasks_wanted);
    first_task.push_back(first_task.back() + std::min(stage.units, 4 * tasks_wanted));
    work += stage.work();
  }
  parallel.for_each(first_task.back(), work, [&](int64_t index) {
    const auto place =
        std::upper_bound(first_task.begin(), first_task.end(), index) - first_task.begin() - 1;
    const Stage& stage = stages[static_cast<size_t>(place)];
    const int64_t task = index - first_task[place];
    const int64_t tasks = first_task[place + 1] - first_task[place];
    std::vector<int64_t> local;
    std::vector<uint64_t> scratch;
    for (int64_t unit = task * stage.units / tasks; unit < (task + 1) * stage.units / tasks; ++unit)
      stage.run_unit(unit, local, scratch);
  });
  stages.clear();
}

}  // namespace

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

  // Where the counts of a size begin in a row: at its first mention.
  const auto column_of = [&](int64_t size) {
    return box_count_grids(p.dims, p.sizes,
                           std::find(p.sizes, p.sizes + p.size_count, size) - p.sizes, p.offsets);
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
    const auto make_lattice = [&](const Leading& leading) {
      auto lattice = std::make_unique<Lattice>(Lattice{leading, items, words, planes, nullptr});
      lattice->bits = std::make_unique_for_overwrite<uint64_t[]>(
          static_cast<size_t>(items * lattice->item_stride()));
      return lattice;
    };
    auto cuts = finest;
    std::vector<std::unique_ptr<Lattice>> lattices;
    lattices.push_back(make_lattice(cells_of(cuts)));
    reduce(Reduction{p.mask + first_item * array.rows() * cells, nullptr, cells, cuts.data(),
                     lattices.back().get()},
           parallel);

    std::vector<Stage> stages;
    int64_t ranges = 0;
    for (int64_t i = 0; i < size_count; ++i) {
      const int64_t size = sizes[static_cast<size_t>(i)];
      auto coarser = cuts_from(i, 1);
      if (4 * cells_of(coarser).rows() <= 3 * lattices.back()->leading.rows()) {
        auto indices = coarser;
        for (int k = 0; k < array.axes; ++k)
          for (int64_t& position : indices[k]) position = index_of(cuts[k], position);
        auto merged = make_lattice(cells_of(coarser));
        reduce(Reduction{nullptr, lattices.back().get(), cells, indices.data(), merged.get()},
               parallel);
        lattices.push_back(std::move(merged));
        cuts = std::move(coarser);
      }

      LastAxis last{size, cells, p.mixed, p.crop, origins_of(size, p.offsets), {}};
      if (size < 64) {
        for (const int64_t origin : last.origins)
          for (int64_t w = 0; w < size; ++w)
            last.starts.push_back(box_starts(64 * w, origin, size));
      }
      std::array<Boxes, kBoxCountMaxDims> boxes;
      for (int k = 0; k < array.axes; ++k) {
        boxes[k] =
            p.dims == 1 ? Boxes{{0, 1}, {{0, 1}}} : boxes_of(cuts[k], size, p.offsets, p.crop);
        ranges += static_cast<int64_t>(boxes[k].range.size());
      }
      int64_t* const counts = p.counts + first_item * row_grids + column_of(size);
      stages.push_back(Stage{*lattices.back(), std::move(boxes), std::move(last), counts, row_grids,
                             0, 0, 0, 0});
      constexpr int64_t kMostRanges = 1 << 20;  // what may wait, for the sake of memory
      if (ranges > kMostRanges || i + 1 == size_count) {
        count_stages(stages, parallel);
        ranges = 0;
      }
    }
  }

  // The same size may have been asked for more than once.
  int64_t column = 0;
  for (int64_t j = 0; j < p.size_count; ++j) {
    const int64_t grids = box_count_grids(p.dims, p.sizes + j, 1, p.offsets);
    const int64_t counted = column_of(p.sizes[j]);
    for (int64_t item = 0; item < p.batch && counted != column; ++item)
      std::copy_n(p.counts + item * row_grids + counted, grids,
                  p.counts + item * row_grids + column);
    column += grids;
  }
}

}  // namespace fractalkern
