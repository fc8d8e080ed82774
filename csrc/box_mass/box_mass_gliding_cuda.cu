// Moments of the mass of a box over all its positions, on a GPU. Running sums along every axis,
// modulo 2^64 and made once, give the mass of any box by its 2^dims corners; each size is then a
// launch whose lanes take neighbouring positions. Along the last axis a warp scans a chunk of a
// row, knowing the sum of the chunks before; along the others a thread walks down a column.
#include <algorithm>
#include <cstdint>

#include "box_mass/box_mass.h"
#include "common/boxes.h"
#include "common/cuda_launch.h"

namespace fractalkern {
namespace {

constexpr const char* kOp = "gliding_mass";
constexpr int kThreads = 256;
constexpr int kThreadsOfMultiprocessor = 2048;
constexpr int64_t kChunk = 2048;  // cells or positions for one warp
constexpr int kLimbs = 4;         // of 32 bits, of a sum of squares
// Columns are few: small blocks reach all multiprocessors, and many cells of each are on their way.
constexpr int kColumnThreads = 64;
constexpr int kCellsAhead = 16;

__device__ int64_t first_thread() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ int64_t thread_step() { return int64_t{gridDim.x} * blockDim.x; }
__device__ int64_t lane_of_warp() { return threadIdx.x % kWarp; }

unsigned blocks_for(int64_t threads, const CudaStream& stream, int of_block = kThreads) {
  const int64_t most = int64_t{multiprocessors(stream)} * kThreadsOfMultiprocessor / of_block;
  return static_cast<unsigned>(std::min(ceil_div(threads, of_block), most));
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// The sum over this lane and those below it.
__device__ __forceinline__ uint64_t warp_scan(uint64_t value) {
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t below = __shfl_up_sync(kWholeWarp, value, static_cast<unsigned>(step));
    if (lane_of_warp() >= step) value += below;
  }
  return value;
}

// Rows of weights cut into chunks.
struct Rows {
  const void* weights;  // [rows, cells]
  int64_t rows, cells, chunks;
  uint64_t* before;  // [rows, chunks]: first the sum of each chunk, then of those before it
  uint64_t* sums;    // [rows, cells], written
};

template <class Source>
__global__ void gliding_mass_kernel_chunk_sums(const __grid_constant__ Rows p) {
  for (int64_t unit = first_thread() / kWarp; unit < p.rows * p.chunks;
       unit += thread_step() / kWarp) {
    const int64_t row = unit / p.chunks, begin = (unit - row * p.chunks) * kChunk;
    const int64_t end = begin + kChunk < p.cells ? begin + kChunk : p.cells;
    const Source* const weights = static_cast<const Source*>(p.weights) + row * p.cells;
    uint64_t total = 0;
    for (int64_t c = begin + lane_of_warp(); c < end; c += kWarp)
      total += static_cast<uint64_t>(weights[c]);
    total = warp_sum(total);
    if (lane_of_warp() == 0) p.before[unit] = total;
  }
}

// A warp a row.
__global__ void gliding_mass_kernel_sums_before(const __grid_constant__ Rows p) {
  for (int64_t row = first_thread() / kWarp; row < p.rows; row += thread_step() / kWarp) {
    uint64_t carry = 0;
    for (int64_t first = 0; first < p.chunks; first += kWarp) {
      const int64_t chunk = first + lane_of_warp();
      const uint64_t sum = chunk < p.chunks ? p.before[row * p.chunks + chunk] : 0;
      const uint64_t scanned = warp_scan(sum);
      if (chunk < p.chunks) p.before[row * p.chunks + chunk] = carry + scanned - sum;
      carry += __shfl_sync(kWholeWarp, scanned, kWarp - 1);
    }
  }
}

template <class Source>
__global__ void gliding_mass_kernel_scan_rows(const __grid_constant__ Rows p) {
  for (int64_t unit = first_thread() / kWarp; unit < p.rows * p.chunks;
       unit += thread_step() / kWarp) {
    const int64_t row = unit / p.chunks, begin = (unit - row * p.chunks) * kChunk;
    const int64_t end = begin + kChunk < p.cells ? begin + kChunk : p.cells;
    const Source* const weights = static_cast<const Source*>(p.weights) + row * p.cells;
    uint64_t carry = p.before[unit];
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t c = first + lane_of_warp();
      const uint64_t scanned = warp_scan(c < end ? static_cast<uint64_t>(weights[c]) : 0);
      if (c < end) p.sums[row * p.cells + c] = carry + scanned;
      carry += __shfl_sync(kWholeWarp, scanned, kWarp - 1);
    }
  }
}

// Running sums in place along the middle axis of [outer, cells, inner].
__global__ void gliding_mass_kernel_scan_columns(uint64_t* sums, int64_t outer, int64_t cells,
                                                 int64_t inner) {
  for (int64_t i = first_thread(); i < outer * inner; i += thread_step()) {
    const int64_t block = i / inner;
    uint64_t* const column = sums + block * cells * inner + (i - block * inner);
    uint64_t total = 0;
    for (int64_t first = 0; first < cells; first += kCellsAhead) {
      uint64_t ahead[kCellsAhead];
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int c = 0; c < kCellsAhead; ++c)
        ahead[c] = first + c < cells ? column[(first + c) * inner] : 0;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int c = 0; c < kCellsAhead; ++c) {
        total += ahead[c];
        if (first + c < cells) column[(first + c) * inner] = total;
      }
    }
  }
}

// All positions of boxes of one size.
struct Positions {
  const uint64_t* sums;  // [batch, *shape]
  int64_t batch, cells;
  int64_t positions, chunks;  // of a mask
  int64_t along[kBoxMassMaxDims], stride[kBoxMassMaxDims];
  int64_t size;
  unsigned long long* totals;  // [batch, totals_stride]: sum of masses, limbs of that of squares
  int64_t totals_stride;
};

template <int kDims>
__global__ void gliding_mass_kernel_moments(const __grid_constant__ Positions p) {
  for (int64_t unit = first_thread() / kWarp; unit < p.batch * p.chunks;
       unit += thread_step() / kWarp) {
    const int64_t item = unit / p.chunks, begin = (unit - item * p.chunks) * kChunk;
    const int64_t end = begin + kChunk < p.positions ? begin + kChunk : p.positions;
    uint64_t sum = 0;
    unsigned __int128 square = 0;
    for (int64_t position = begin + lane_of_warp(); position < end; position += kWarp) {
      int64_t at[kDims], rest = position;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int k = kDims - 1; k >= 0; --k) {
        const int64_t above = k > 0 ? rest / p.along[k] : 0;
        at[k] = rest - above * p.along[k];
        rest = above;
      }
      const uint64_t* const sums = p.sums + item * p.cells;
      uint64_t mass = 0;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int corner = 0; corner < 1 << kDims; ++corner) {
        int64_t index = 0;
        bool inside = true, negative = false;
        FRACTALKERN_UNROLL_ON_DEVICE
        for (int k = 0; k < kDims; ++k) {
          const bool far_side = (corner >> k & 1) != 0;
          index += (far_side ? at[k] + p.size - 1 : at[k] - 1) * p.stride[k];
          inside &= far_side || at[k] > 0;
          negative ^= !far_side;
        }
        if (inside) mass += negative ? 0 - sums[index] : sums[index];
      }
      sum += mass;
      const auto sign = static_cast<int64_t>(mass);
      const uint64_t size = sign < 0 ? 0 - mass : mass;
      square += static_cast<unsigned __int128>(size) * size;
    }
    unsigned long long* const totals = p.totals + item * p.totals_stride;
    sum = warp_sum(sum);
    if (lane_of_warp() == 0) atomicAdd(totals, sum);
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int limb = 0; limb < kLimbs; ++limb) {
      const uint64_t part = warp_sum(static_cast<uint32_t>(square >> (32 * limb)));
      if (lane_of_warp() == 0) atomicAdd(totals + 1 + limb, part);
    }
  }
}

__global__ void gliding_mass_kernel_finish(const unsigned long long* totals, int64_t rows,
                                           int64_t size_count, int64_t size_index,
                                           int64_t positions, int64_t* moments) {
  for (int64_t row = first_thread(); row < rows; row += thread_step()) {
    const unsigned long long* const total = totals + row * (1 + kLimbs);
    unsigned __int128 square = 0;
    for (int limb = 0; limb < kLimbs; ++limb)
      square += static_cast<unsigned __int128>(total[1 + limb]) << (32 * limb);
    int64_t* const out = moments + 4 * (row * size_count + size_index);
    constexpr uint64_t kLow = (uint64_t{1} << 62) - 1;
    out[0] = positions;
    out[1] = static_cast<int64_t>(total[0]);
    out[2] = static_cast<int64_t>(static_cast<uint64_t>(square >> 62));
    out[3] = static_cast<int64_t>(static_cast<uint64_t>(square) & kLow);
  }
}

template <class Source>
void running_sums(const Weights& w, int64_t cells, uint64_t* sums, const CudaStream& stream) {
  const int64_t length = w.shape[w.dims - 1];
  Rows rows{w.data, w.batch * cells / length, length, ceil_div(length, kChunk), nullptr, sums};
  const int64_t units = rows.rows * rows.chunks;
  rows.before = static_cast<uint64_t*>(stream.scratch(8 * units));
  const unsigned blocks = blocks_for(units * kWarp, stream);
  launch(kOp, &gliding_mass_kernel_chunk_sums<Source>, blocks, kThreads, 0, stream, rows);
  launch(kOp, &gliding_mass_kernel_sums_before, blocks_for(rows.rows * kWarp, stream), kThreads, 0,
         stream, rows);
  launch(kOp, &gliding_mass_kernel_scan_rows<Source>, blocks, kThreads, 0, stream, rows);
  int64_t inner = length;
  for (int k = w.dims - 2; k >= 0; --k) {
    const int64_t outer = w.batch * cells / (inner * w.shape[k]);
    launch(kOp, &gliding_mass_kernel_scan_columns,
           blocks_for(outer * inner, stream, kColumnThreads), kColumnThreads, 0, stream, sums,
           outer, w.shape[k], inner);
    inner *= w.shape[k];
  }
}

}  // namespace

void gliding_mass_cuda(const GlidingMass& p, const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, kOp);
  const Weights& w = p.weights;
  Positions each{};
  each.cells = 1;
  for (int k = w.dims - 1; k >= 0; --k) {
    each.stride[k] = each.cells;
    each.cells *= w.shape[k];
  }
  if (w.batch * p.size_count == 0) return;
  auto* const sums = static_cast<uint64_t*>(stream.scratch(8 * w.batch * each.cells));
  if (w.type == WeightType::kByte) {
    running_sums<uint8_t>(w, each.cells, sums, stream);
  } else {
    running_sums<uint64_t>(w, each.cells, sums, stream);
  }

  each.sums = sums;
  each.batch = w.batch;
  each.totals_stride = 1 + kLimbs;
  const int64_t totals_bytes = 8 * w.batch * each.totals_stride;
  each.totals = static_cast<unsigned long long*>(stream.scratch(totals_bytes));
  constexpr void (*kMoments[kBoxMassMaxDims])(Positions) = {
      &gliding_mass_kernel_moments<1>, &gliding_mass_kernel_moments<2>,
      &gliding_mass_kernel_moments<3>, &gliding_mass_kernel_moments<4>,
      &gliding_mass_kernel_moments<5>};
  for (int64_t i = 0; i < p.size_count; ++i) {
    each.size = p.sizes[i];
    each.positions = 1;
    for (int k = 0; k < w.dims; ++k) {
      each.along[k] = w.shape[k] - each.size + 1;
      each.positions *= each.along[k];
    }
    each.chunks = ceil_div(each.positions, kChunk);
    check_cuda(cudaMemsetAsync(each.totals, 0, static_cast<size_t>(totals_bytes), native(stream)),
               kOp);
    launch(kOp, kMoments[w.dims - 1], blocks_for(w.batch * each.chunks * kWarp, stream), kThreads,
           0, stream, each);
    launch(kOp, &gliding_mass_kernel_finish, blocks_for(w.batch, stream), kThreads, 0, stream,
           each.totals, w.batch, p.size_count, i, each.positions, p.moments);
  }
}

}  // namespace fractalkern
