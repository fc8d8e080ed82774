// One block's part of a pass: y = W v by warps, four rows at a time, then z += W^T y by threads,
// a column each, while the rows are still in shared memory. Sums have a fixed order.
#pragma once

#include "common/cuda_team.h"
#include "common/half_precision.h"
#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_cuda_tiles.h"

namespace fractalkern {

constexpr int kMostThreads = 384;  // with 168 registers each
constexpr int kMostWarps = kMostThreads / kWarp;
constexpr int kWarpRows = 4;  // that share a load of v

// What a block's threads tell each other during a sweep, in its shared memory.
struct SweepShared {
  double slots[kMostWarps];    // of block_sum()
  double lanes[kMostThreads];  // columns' sums by threads that share a column
  double parts[kTileRows];     // rows' sums by warps that share a row
  double magnitude_parts[kTileRows];
  union {
    float narrow[kTileRows];
    double wide[kTileRows];
  } y;
};
static_assert(kMostWarps * kWarpRows <= kTileRows);

template <class A>
__device__ __forceinline__ A* products(SweepShared& shared) {
  if constexpr (sizeof(A) == sizeof(float)) {
    return shared.y.narrow;
  } else {
    return shared.y.wide;
  }
}

// A thread's share of the sums over the block's rows.
struct SweepSums {
  double left = 0;         // of y^2
  double squares = 0;      // of w^2
  double largest_row = 0;  // of sums of |w|
};

// How a sweep reads entries: of type S, as they are.
template <class S>
struct PlainEntries {
  template <class A>
  __device__ __forceinline__ A read(const unsigned char* row, int64_t column) const {
    return static_cast<A>(widened(reinterpret_cast<const S*>(row)[column]));
  }
};

// Or of any type, scaled, where that is slow and rare.
struct ScaledEntries {
  SpectralType type;
  double scale;

  template <class A>
  __device__ __forceinline__ A read(const unsigned char* row, int64_t column) const {
    switch (type) {
      case SpectralType::kFloat:
        return scale * reinterpret_cast<const float*>(row)[column];
      case SpectralType::kHalf:
        return scale * widened(reinterpret_cast<const Half*>(row)[column]);
      case SpectralType::kBFloat16:
        return scale * widened(reinterpret_cast<const BFloat16*>(row)[column]);
      default:
        return scale * reinterpret_cast<const double*>(row)[column];
    }
  }
};

__device__ __forceinline__ double magnitude(double x) { return x < 0 ? -x : x; }

// A warp's sums of its rows: lane l gets that of row l / 8.
constexpr int kRowLanes = kWarp / kWarpRows;

template <class A>
__device__ __forceinline__ A sums_of_rows(const A (&rows)[kWarpRows], int lane) {
  const bool second = (lane & 16) != 0, odd = (lane & 8) != 0;
  A pair[2];
  FRACTALKERN_UNROLL
  for (int i = 0; i < 2; ++i)
    pair[i] = (second ? rows[i + 2] : rows[i]) +
              __shfl_xor_sync(kWholeWarp, second ? rows[i] : rows[i + 2], 16);
  A sum = (odd ? pair[1] : pair[0]) + __shfl_xor_sync(kWholeWarp, odd ? pair[0] : pair[1], 8);
  for (int step = kRowLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  return sum;
}

// parts[s (rows rounded up to 4) + r]: the part of row r of W v of the s-th share of the columns.
template <class A, bool kMeasure, class Entries, class V>
__device__ int multiply_rows(const Entries& entries, const Tile& tile, const V* v, int64_t columns,
                             SweepShared& shared, SweepSums& sums) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int groups = (tile.rows + kWarpRows - 1) / kWarpRows;
  const int shares = groups < warps ? warps / groups : 1;
  const int64_t span = ((columns + shares - 1) / shares + kWarp - 1) / kWarp * kWarp;
  for (int unit = warp; unit < groups * shares; unit += warps) {
    const int first = unit / shares * kWarpRows, share = unit % shares;
    const int64_t begin = share * span;
    const int64_t end = begin + span < columns ? begin + span : columns;
    const unsigned char* rows[kWarpRows];
    A dots[kWarpRows] = {};
    [[maybe_unused]] double magnitudes[kWarpRows] = {};
    FRACTALKERN_UNROLL
    for (int r = 0; r < kWarpRows; ++r) {
      const int row = first + r < tile.rows ? first + r : tile.rows - 1;
      rows[r] = tile.data + row * tile.pitch;
    }
    for (int64_t j = begin + lane; j < end; j += kWarp) {
      const A factor = static_cast<A>(v[j]);
      FRACTALKERN_UNROLL
      for (int r = 0; r < kWarpRows; ++r) {
        const A w = entries.template read<A>(rows[r], j);
        dots[r] += w * factor;
        if constexpr (kMeasure) {
          if (first + r < tile.rows) sums.squares += w * w;
          magnitudes[r] += magnitude(w);
        }
      }
    }
    const A dot = sums_of_rows(dots, lane);
    const int at = share * groups * kWarpRows + first + lane / kRowLanes;
    if (lane % kRowLanes == 0) shared.parts[at] = dot;
    if constexpr (kMeasure) {
      const double sum = sums_of_rows(magnitudes, lane);
      if (lane % kRowLanes == 0) shared.magnitude_parts[at] = sum;
    }
  }
  return shares;
}

// sum(j) over the threads that share column j, handed to add(j, total) by one of them.
template <class Sum, class Add>
__device__ void by_columns(int64_t columns, int count, double* lanes, const Sum& sum,
                           const Add& add) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  if (2 * columns > threads) {
    for (int64_t j = thread; j < columns; j += threads) add(j, sum(j, 0, count, 1));
    return;
  }
  int width = 1;
  while (width < columns) width *= 2;
  const int sharing = threads / width, column = thread % width;
  if (column < columns) lanes[thread] = sum(column, thread / width, count, sharing);
  __syncthreads();
  if (thread < columns) {
    decltype(sum(0, 0, 0, 1)) total = 0;
    for (int i = 0; i < sharing; ++i)
      total += static_cast<decltype(total)>(lanes[i * width + thread]);
    add(thread, total);
  }
  __syncthreads();
}

// y = W v and z = W^T y over the block's rows; left(row, y) takes each y. Column sums of |w| go
// to `column_sums` unless that is null. The caller waits before it reads what others wrote.
template <class A, bool kMeasure, class Entries, class V, class Left>
__device__ SweepSums sweep(const Entries& entries, Tiles& tiles, const V* v, A* z, int64_t columns,
                           double* column_sums, SweepShared& shared, const Left& left) {
  const int thread = static_cast<int>(threadIdx.x);
  A* const y = products<A>(shared);
  SweepSums sums;
  for (int64_t j = thread; j < columns; j += blockDim.x) {
    z[j] = 0;
    if (kMeasure && column_sums != nullptr) column_sums[j] = 0;
  }
  for (int64_t number = 0; number < tiles.count(); ++number) {
    const Tile tile = tiles.next(number);
    const int shares = multiply_rows<A, kMeasure>(entries, tile, v, columns, shared, sums);
    __syncthreads();
    if (thread < tile.rows) {
      const int step = (tile.rows + kWarpRows - 1) / kWarpRows * kWarpRows;
      A dot = 0;
      double row = 0;
      for (int s = 0; s < shares; ++s) {
        dot += static_cast<A>(shared.parts[s * step + thread]);
        if constexpr (kMeasure) row += shared.magnitude_parts[s * step + thread];
      }
      y[thread] = dot;
      sums.left += static_cast<double>(dot) * dot;
      sums.largest_row = row > sums.largest_row ? row : sums.largest_row;
      left(tiles.first_row(number) + thread, dot);
    }
    __syncthreads();
    by_columns(
        columns, tile.rows, shared.lanes,
        [&](int64_t j, int begin, int end, int step) {
          A sum = 0;
          for (int r = begin; r < end; r += step)
            sum += y[r] * entries.template read<A>(tile.data + r * tile.pitch, j);
          return sum;
        },
        [&](int64_t j, A sum) { z[j] += sum; });
    if constexpr (kMeasure) {
      if (column_sums == nullptr) continue;
      by_columns(
          columns, tile.rows, shared.lanes,
          [&](int64_t j, int begin, int end, int step) {
            double sum = 0;
            for (int r = begin; r < end; r += step)
              sum += magnitude(entries.template read<double>(tile.data + r * tile.pitch, j));
            return sum;
          },
          [&](int64_t j, double sum) { column_sums[j] += sum; });
    }
  }
  return sums;
}

}  // namespace fractalkern
