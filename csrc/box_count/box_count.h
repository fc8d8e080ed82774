// Counts, for every box size and every placement of the grid, the boxes that touch a set.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/parallel.h"

namespace fractalkern {

constexpr int kBoxCountMaxDims = 5;

struct BoxCount {
  const uint8_t* mask;              // [batch, *shape], contiguous; nonzero = in the set
  int64_t batch;                    // number of masks
  int dims;                         // spatial axes, 1 to kBoxCountMaxDims
  int64_t shape[kBoxCountMaxDims];  // cells along each spatial axis, the last one contiguous
  const int64_t* sizes;             // [size_count], cells along the edge of a box
  int64_t size_count;
  int64_t offsets;  // origins per axis and size: floor(j * size / offsets); 0 = every cell
  bool mixed;       // count boxes that hold cells of both kinds, else any cell of the set
  bool crop;        // leave out boxes that stick out of the array
  int64_t* counts;  // [batch, box_count_grids()], written
};

// Distinct origins along one axis of boxes of `size` cells.
int64_t box_count_origins(int64_t size, int64_t offsets);

// Grids over all sizes, which is the length of a row of `counts`; -1 if it overflows. The grids of
// one size are the Cartesian product of its origins along each axis, the last axis fastest.
int64_t box_count_grids(int dims, const int64_t* sizes, int64_t size_count, int64_t offsets);

// Are all sizes powers of two, from one origin? These have a quicker way.
bool box_count_is_pyramid(const BoxCount& problem);

void box_count_cpu(const BoxCount& problem, const Parallel& parallel);

// `mask` and `counts` in device memory, `sizes` on the host. Reads of `sizes` end with the call.
void box_count_cuda(const BoxCount& problem, const CudaStream& stream);

}  // namespace fractalkern
