// CUDA kernel of box_mass: one launch a size, for all of its grids. A box is the work of a team, a
// thread, a warp or a block, by the number of elements that it adds up; neighbouring teams take
// neighbouring boxes of a grid, the lanes of a team neighbouring elements of a row. The source is
// the array, or the masses of a finer grid whose boxes nest in these, as on the CPU: powers of two
// read the array twice at most. A team's order of addition depends on the problem alone.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "box_mass/box_mass.h"
#include "box_mass/box_mass_grids.h"
#include "common/boxes.h"
#include "common/cuda_launch.h"

namespace fractalkern {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;

// All grids of one size: where their boxes lie within a row of the result.
struct SizeLayout {
  int64_t size, origins;
  int64_t boxes[kBoxMassMaxDims];  // along each axis, of all origins together
};

struct Sums {
  const void* source;  // [batch, source_stride]: a row of the boxes of `fine`
  int64_t source_stride;
  void* masses;  // [batch, masses_stride], written from the first box of `own` on
  int64_t masses_stride;
  int64_t batch;
  int64_t shape[kBoxMassMaxDims];       // cells
  int64_t most_boxes[kBoxMassMaxDims];  // along each axis, of one origin
  SizeLayout own, fine;                 // the array itself is a grid of boxes of one cell
};

// Index of the first box of a grid: those of all grids before it, the last axis fastest.
template <int kDims>
__device__ __forceinline__ int64_t first_box(const Sums& p, const SizeLayout& layout,
                                             const int64_t (&number)[kDims],
                                             const int64_t (&boxes)[kDims]) {
  int64_t column = 0, before = 1;
  FRACTALKERN_UNROLL_ON_DEVICE
  for (int k = 0; k < kDims; ++k) {
    column = column * layout.boxes[k] +
             before * boxes_before(number[k], p.shape[k], layout.size, layout.origins);
    before *= boxes[k];
  }
  return column;
}

template <int kDims, class Source, class Mass, int kTeam>
__global__ void __launch_bounds__(kThreads, 1)
    box_mass_kernel_sums(const __grid_constant__ Sums p) {
  constexpr int kLast = kDims - 1;
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const int64_t teams = int64_t{gridDim.x} * (kThreads / kTeam);
  const int64_t ratio = p.own.size / p.fine.size;
  int64_t boxes_to_visit = p.batch;
  for (int k = 0; k < kDims; ++k) boxes_to_visit *= p.own.origins * p.most_boxes[k];

  for (int64_t team = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam; team < boxes_to_visit;
       team += teams) {
    int64_t number[kDims], boxes[kDims], box[kDims];
    int64_t fine_number[kDims], extent[kDims], low[kDims], length[kDims];
    int64_t rest = team, rows = 1;
    bool exists = true;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = kLast; k >= 0; --k) {
      const int64_t grid_and_box = rest / p.most_boxes[k];
      box[k] = rest - grid_and_box * p.most_boxes[k];
      int64_t start = box[k] * ratio;
      rest = grid_and_box;
      number[k] = fine_number[k] = 0;
      boxes[k] = p.most_boxes[k];
      extent[k] = p.fine.boxes[k];
      if (p.own.origins > 1) {  // or neither this size nor the source has a second grid
        rest = grid_and_box / p.own.origins;
        number[k] = grid_and_box - rest * p.own.origins;
        const int64_t origin = box_origin(number[k], p.own.size, p.own.origins);
        boxes[k] = ceil_div(p.shape[k] + origin, p.own.size);
        exists &= box[k] < boxes[k];
        const int64_t fine_origin = origin % p.fine.size;
        fine_number[k] = ceil_div(fine_origin * p.fine.origins, p.fine.size);
        extent[k] = ceil_div(p.shape[k] + fine_origin, p.fine.size);
        start = (box[k] * p.own.size - origin + fine_origin) / p.fine.size;
      }
      const int64_t end = start + ratio < extent[k] ? start + ratio : extent[k];
      low[k] = start > 0 ? start : 0;
      length[k] = end - low[k];
      if (k < kLast) rows *= length[k];
    }
    if (!exists) continue;

    const Source* const source = static_cast<const Source*>(p.source) + rest * p.source_stride +
                                 first_box(p, p.fine, fine_number, extent);
    int lanes_per_row = 1;
    while (lanes_per_row < kTeam && lanes_per_row < length[kLast]) lanes_per_row *= 2;
    Mass total = 0;
    for (int64_t row = lane / lanes_per_row; row < rows; row += kTeam / lanes_per_row) {
      int64_t above = row, index = 0, stride = extent[kLast];
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int k = kLast - 1; k >= 0; --k) {
        const int64_t next = k > 0 ? above / length[k] : 0;
        index += (low[k] + above - next * length[k]) * stride;
        stride *= extent[k];
        above = next;
      }
      for (int64_t c = lane % lanes_per_row; c < length[kLast]; c += lanes_per_row)
        total += static_cast<Mass>(source[index + low[kLast] + c]);
    }

    if constexpr (kTeam >= kWarp) {
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int step = kWarp / 2; step > 0; step /= 2)
        total += __shfl_xor_sync(kWholeWarp, total, step);
    }
    if constexpr (kTeam > kWarp) {
      Mass* const of_warp = dynamic_shared<Mass>();
      if (lane % kWarp == 0) of_warp[lane / kWarp] = total;
      __syncthreads();
      total = 0;
      for (int warp = 0; warp < kTeam / kWarp; ++warp) total += of_warp[warp];
      __syncthreads();
    }
    if (lane == 0) {
      int64_t index = 0;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int k = 0; k < kDims; ++k) index = index * boxes[k] + box[k];
      static_cast<Mass*>(
          p.masses)[rest * p.masses_stride + first_box(p, p.own, number, boxes) + index] = total;
    }
  }
}

template <int kDims, class Source, class Mass, int kTeam>
void launch_team(const Sums& p, const CudaStream& stream) {
  int64_t threads = p.batch * kTeam;
  for (int k = 0; k < kDims; ++k) threads *= p.own.origins * p.most_boxes[k];
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(
      ceil_div(threads, kThreads), int64_t{kBlocksPerMultiprocessor} * multiprocessors(stream)));
  launch("box_mass", &box_mass_kernel_sums<kDims, Source, Mass, kTeam>, blocks, kThreads,
         kTeam > kWarp ? kTeam / kWarp * sizeof(Mass) : 0, stream, p);
}

template <int kDims, class Source, class Mass>
void launch_sums(const Sums& p, const CudaStream& stream) {
  double elements = 1;
  for (int k = 0; k < kDims; ++k) elements *= static_cast<double>(p.own.size / p.fine.size);
  if (elements <= 64) {
    launch_team<kDims, Source, Mass, 1>(p, stream);
  } else if (elements <= 4096) {
    launch_team<kDims, Source, Mass, kWarp>(p, stream);
  } else {
    launch_team<kDims, Source, Mass, kThreads>(p, stream);
  }
}

SizeLayout layout_of(const Weights& weights, int64_t size, int64_t origins) {
  SizeLayout layout{size, origins, {}};
  for (int k = 0; k < weights.dims; ++k)
    layout.boxes[k] = boxes_before(origins, weights.shape[k], size, origins);
  return layout;
}

template <int kDims, class Source, class Mass>
void solve(const BoxMass& p, const CudaStream& stream) {
  const Weights& w = p.weights;
  int64_t cells = 1;
  for (int k = 0; k < kDims; ++k) cells *= w.shape[k];
  const int64_t row = box_mass_boxes(kDims, w.shape, p.sizes, p.size_count, p.offsets);
  if (w.batch * cells * row == 0) return;

  struct Size {
    SizeGrids grids;
    int64_t column;
  };
  std::vector<Size> sizes;
  for (int64_t i = 0; i < p.size_count; ++i) {
    const int64_t size = p.sizes[i];
    const int64_t origins = p.offsets == 0 ? size : std::min(size, p.offsets);
    if (size > (int64_t{1} << 62) / origins)
      throw std::runtime_error("box_mass: sizes times origins must be at most 2^62 on a GPU, got " +
                               std::to_string(size) + " times " + std::to_string(origins));
    sizes.push_back({{size, origins_of(size, p.offsets), {}},
                     box_mass_boxes(kDims, w.shape, p.sizes, i, p.offsets)});
  }
  std::stable_sort(sizes.begin(), sizes.end(),
                   [](const Size& a, const Size& b) { return a.grids.size < b.grids.size; });

  auto* const masses = static_cast<Mass*>(p.masses);
  for (size_t rank = 0; rank < sizes.size(); ++rank) {
    const SizeGrids& grids = sizes[rank].grids;
    // Of the sizes that are done the largest that fits, unless it is no smaller than the array.
    const Size* fine = nullptr;
    for (size_t before = rank; before-- > 0 && fine == nullptr;) {
      const Size& candidate = sizes[before];
      if (candidate.grids.size == 1 && sizeof(Mass) >= sizeof(Source)) break;
      if (!nesting(candidate.grids, grids).empty()) fine = &candidate;
    }
    Sums sums{};
    sums.masses = masses + sizes[rank].column;
    sums.masses_stride = row;
    sums.batch = w.batch;
    sums.own = layout_of(w, grids.size, static_cast<int64_t>(grids.origins.size()));
    for (int k = 0; k < kDims; ++k) {
      sums.shape[k] = w.shape[k];
      sums.most_boxes[k] = boxes_along(w.shape[k], grids.origins.back(), grids.size);
    }
    if (fine == nullptr) {
      sums.source = w.data;
      sums.source_stride = cells;
      sums.fine = layout_of(w, 1, 1);
      launch_sums<kDims, Source, Mass>(sums, stream);
    } else {
      sums.source = masses + fine->column;
      sums.source_stride = row;
      sums.fine = layout_of(w, fine->grids.size, static_cast<int64_t>(fine->grids.origins.size()));
      launch_sums<kDims, Mass, Mass>(sums, stream);
    }
  }
}

template <int kDims>
void solve_type(const BoxMass& p, const CudaStream& stream) {
  switch (p.weights.type) {
    case WeightType::kByte:
      return solve<kDims, uint8_t, uint64_t>(p, stream);
    case WeightType::kInt64:
      return solve<kDims, uint64_t, uint64_t>(p, stream);
    case WeightType::kDouble:
      return solve<kDims, double, double>(p, stream);
  }
}

}  // namespace

void box_mass_cuda(const BoxMass& problem, const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, "box_mass");
  constexpr void (*kSolve[kBoxMassMaxDims])(const BoxMass&, const CudaStream&) = {
      &solve_type<1>, &solve_type<2>, &solve_type<3>, &solve_type<4>, &solve_type<5>};
  kSolve[problem.weights.dims - 1](problem, stream);
}

}  // namespace fractalkern
