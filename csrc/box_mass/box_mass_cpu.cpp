// CPU kernel of box_mass. A row of boxes is the sum of the source rows that run through it, then of
// runs along it. The source is the array, or the masses of a finer grid whose boxes nest in these:
// powers of two make a pyramid that reads the array once or twice, whatever the number of sizes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "box_mass/box_mass.h"
#include "box_mass/box_mass_grids.h"
#include "common/boxes.h"
#include "common/instruction_set.h"

namespace fractalkern {
namespace {

using Shape = std::array<int64_t, kBoxMassMaxDims>;

constexpr int64_t kTaskElements = 1 << 15;

// Boxes [begin, end) of one grid, counted over the rows along the last axis of all its items.
template <class Source, class Mass>
struct RowRun {
  const Source* source;
  int64_t source_stride;  // from one item to the next
  int dims;
  Shape extent;  // of the source
  int64_t size;  // of a box, and its origin, in elements of the source
  Shape origin;
  Shape boxes;
  Mass* target;
  int64_t target_stride;
  int64_t begin, end;
};

template <class Cell, class Mass>
FRACTALKERN_INLINE void sum_runs(const Cell* cells, int64_t count, int64_t size, int64_t origin,
                                 int64_t boxes, Mass* out) {
  if (size == 1) {
    for (int64_t b = 0; b < boxes; ++b) out[b] = static_cast<Mass>(cells[b]);
    return;
  }
  if (size == 2 && origin == 0) {
    const int64_t pairs = count / 2;
    for (int64_t b = 0; b < pairs; ++b)
      out[b] = static_cast<Mass>(cells[2 * b]) + static_cast<Mass>(cells[2 * b + 1]);
    if (pairs < boxes) out[pairs] = static_cast<Mass>(cells[2 * pairs]);
    return;
  }
  int64_t cell = 0;
  for (int64_t b = 0; b < boxes; ++b) {
    const int64_t end = std::min((b + 1) * size - origin, count);
    Mass total = 0;
    for (; cell < end; ++cell) total += static_cast<Mass>(cells[cell]);
    out[b] = total;
  }
}

template <class Isa, class Source, class Mass>
FRACTALKERN_INLINE void sum_rows(const RowRun<Source, Mass>& run) {
  const int last = run.dims - 1;
  const int64_t cells = run.extent[last], boxes = run.boxes[last];
  int64_t rows_per_item = 1;
  for (int k = 0; k < last; ++k) rows_per_item *= run.boxes[k];
  std::vector<Mass> sums;

  for (int64_t row = run.begin; row < run.end; ++row) {
    const int64_t item = row / rows_per_item;
    int64_t low[kBoxMassMaxDims], high[kBoxMassMaxDims], at[kBoxMassMaxDims];
    int64_t remainder = row % rows_per_item, source_rows = 1;
    for (int k = last - 1; k >= 0; --k) {
      const int64_t start = remainder % run.boxes[k] * run.size - run.origin[k];
      remainder /= run.boxes[k];
      low[k] = at[k] = std::max<int64_t>(start, 0);
      high[k] = std::min(start + run.size, run.extent[k]);
      source_rows *= high[k] - low[k];
    }
    const Source* const source = run.source + item * run.source_stride;
    const auto row_at = [&] {
      int64_t index = 0;
      for (int k = 0; k < last; ++k) index = index * run.extent[k] + at[k];
      return source + index * cells;
    };
    Mass* const out = run.target + item * run.target_stride + (row - item * rows_per_item) * boxes;
    if (source_rows == 1) {
      sum_runs(row_at(), cells, run.size, run.origin[last], boxes, out);
      continue;
    }
    sums.assign(static_cast<size_t>(cells), 0);
    Mass* const total = sums.data();
    for (int64_t r = 0; r < source_rows; ++r) {
      const Source* const from = row_at();
      for (int64_t c = 0; c < cells; ++c) total[c] += static_cast<Mass>(from[c]);
      for (int k = last - 1; k >= 0; --k) {
        if (++at[k] < high[k]) break;
        at[k] = low[k];
      }
    }
    sum_runs(total, cells, run.size, run.origin[last], boxes, out);
  }
}

using ByteRun = RowRun<uint8_t, uint64_t>;
using IntegerRun = RowRun<uint64_t, uint64_t>;
using DoubleRun = RowRun<double, double>;

template <class Isa>
FRACTALKERN_INLINE void byte_body(const ByteRun& run) {
  sum_rows<Isa>(run);
}
template <class Isa>
FRACTALKERN_INLINE void integer_body(const IntegerRun& run) {
  sum_rows<Isa>(run);
}
template <class Isa>
FRACTALKERN_INLINE void double_body(const DoubleRun& run) {
  sum_rows<Isa>(run);
}

FRACTALKERN_ENTRY_POINTS(kByteRun, byte_body, ByteRun)
FRACTALKERN_ENTRY_POINTS(kIntegerRun, integer_body, IntegerRun)
FRACTALKERN_ENTRY_POINTS(kDoubleRun, double_body, DoubleRun)

void sum(const ByteRun& run) { kByteRun.active()(run); }
void sum(const IntegerRun& run) { kIntegerRun.active()(run); }
void sum(const DoubleRun& run) { kDoubleRun.active()(run); }

// Index of the grid whose origin number along axis k is index[k].
int64_t grid_index(const Shape& index, int dims, int64_t origins) {
  int64_t grid = 0;
  for (int k = 0; k < dims; ++k) grid = grid * origins + index[k];
  return grid;
}

template <class Source, class Mass>
void solve(const BoxMass& p, const Parallel& parallel) {
  const Weights& w = p.weights;
  const int dims = w.dims;
  int64_t cells = 1;
  for (int k = 0; k < dims; ++k) cells *= w.shape[k];
  if (w.batch == 0 || p.size_count == 0) return;
  auto* const masses = static_cast<Mass*>(p.masses);

  std::vector<SizeGrids> all(static_cast<size_t>(p.size_count));
  int64_t row_boxes = 0;
  for (int64_t i = 0; i < p.size_count; ++i) {
    SizeGrids& grids = all[static_cast<size_t>(i)];
    grids.size = p.sizes[i];
    grids.origins = origins_of(grids.size, p.offsets);
    const auto origins = static_cast<int64_t>(grids.origins.size());
    int64_t count = 1;
    for (int k = 0; k < dims; ++k) count *= origins;
    for (int64_t grid = 0; grid < count; ++grid) {
      grids.columns.push_back(row_boxes);
      int64_t boxes = 1, rest = grid;
      for (int k = dims - 1; k >= 0; --k, rest /= origins)
        boxes *=
            boxes_along(w.shape[k], grids.origins[static_cast<size_t>(rest % origins)], grids.size);
      row_boxes += boxes;
    }
  }
  std::vector<size_t> order(all.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return all[a].size < all[b].size; });

  for (size_t rank = 0; rank < order.size(); ++rank) {
    const SizeGrids& grids = all[order[rank]];
    const SizeGrids* fine = nullptr;
    std::vector<int64_t> nested;
    // Of the sizes that are done the largest that fits: it is the shortest to read. Boxes of one
    // cell are no smaller than the array.
    for (size_t before = rank; before-- > 0 && fine == nullptr;) {
      const SizeGrids& candidate = all[order[before]];
      if (candidate.size == 1 && sizeof(Mass) >= sizeof(Source)) break;
      nested = nesting(candidate, grids);
      if (!nested.empty()) fine = &candidate;
    }

    std::vector<RowRun<Source, Mass>> from_cells;
    std::vector<RowRun<Mass, Mass>> from_masses;
    const auto origins = static_cast<int64_t>(grids.origins.size());
    for (size_t grid = 0; grid < grids.columns.size(); ++grid) {
      Shape index{}, origin{}, boxes{};
      auto rest = static_cast<int64_t>(grid);
      int64_t rows = w.batch;
      for (int k = dims - 1; k >= 0; --k, rest /= origins) {
        index[k] = rest % origins;
        origin[k] = grids.origins[static_cast<size_t>(index[k])];
        boxes[k] = boxes_along(w.shape[k], origin[k], grids.size);
        if (k < dims - 1) rows *= boxes[k];
      }
      const auto cut = [&](auto run, auto& runs, int64_t elements) {
        const int64_t step =
            std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, elements / rows));
        for (int64_t begin = 0; begin < rows; begin += step) {
          run.begin = begin;
          run.end = std::min(begin + step, rows);
          runs.push_back(run);
        }
      };
      Mass* const target = masses + grids.columns[grid];
      if (fine == nullptr) {
        Shape extent{};
        std::copy_n(w.shape, dims, extent.begin());
        const auto* const source = static_cast<const Source*>(w.data);
        cut(RowRun<Source, Mass>{source, cells, dims, extent, grids.size, origin, boxes, target,
                                 row_boxes, 0, 0},
            from_cells, w.batch * cells);
      } else {
        Shape fine_index{}, extent{};
        int64_t elements = w.batch;
        for (int k = 0; k < dims; ++k) {
          fine_index[k] = nested[static_cast<size_t>(index[k])];
          const int64_t fine_origin = fine->origins[static_cast<size_t>(fine_index[k])];
          extent[k] = boxes_along(w.shape[k], fine_origin, fine->size);
          origin[k] = (origin[k] - fine_origin) / fine->size;
          elements *= extent[k];
        }
        const auto fine_origins = static_cast<int64_t>(fine->origins.size());
        const auto column = static_cast<size_t>(grid_index(fine_index, dims, fine_origins));
        cut(RowRun<Mass, Mass>{masses + fine->columns[column], row_boxes, dims, extent,
                               grids.size / fine->size, origin, boxes, target, row_boxes, 0, 0},
            from_masses, elements);
      }
    }
    const auto run_all = [&](const auto& runs) {
      const auto tasks = static_cast<int64_t>(runs.size());
      parallel.for_each(tasks, tasks * kTaskElements,
                        [&](int64_t i) { sum(runs[static_cast<size_t>(i)]); });
    };
    run_all(from_cells);
    run_all(from_masses);
  }
}

}  // namespace

int64_t box_mass_boxes(int dims, const int64_t* shape, const int64_t* sizes, int64_t size_count,
                       int64_t offsets) {
  int64_t total = 0;
  for (int64_t i = 0; i < size_count; ++i) {
    int64_t product = 1;
    // The grids are all combinations of origins, so the sum over them is a product over axes.
    for (int k = 0; k < dims; ++k) {
      int64_t along = 0;
      const int64_t count = offsets == 0 ? sizes[i] : std::min(sizes[i], offsets);
      for (int64_t j = 0; j < count; ++j) {
        const auto origin = static_cast<int64_t>(static_cast<__int128>(j) * sizes[i] / count);
        if (__builtin_add_overflow(along, boxes_along(shape[k], origin, sizes[i]), &along))
          return -1;
      }
      if (__builtin_mul_overflow(product, along, &product)) return -1;
    }
    if (__builtin_add_overflow(total, product, &total)) return -1;
  }
  return total;
}

void box_mass_cpu(const BoxMass& problem, const Parallel& parallel) {
  switch (problem.weights.type) {
    case WeightType::kByte:
      return solve<uint8_t, uint64_t>(problem, parallel);
    case WeightType::kInt64:
      return solve<uint64_t, uint64_t>(problem, parallel);
    case WeightType::kDouble:
      return solve<double, double>(problem, parallel);
  }
}

}  // namespace fractalkern
