// Sums of weights over boxes: of every box of a grid, and of a box at every position.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/parallel.h"

namespace fractalkern {

constexpr int kBoxMassMaxDims = 5;

enum class WeightType { kByte, kInt64, kDouble };

struct Weights {
  const void* data;                // [batch, *shape], contiguous
  WeightType type;                 // integers are added modulo 2^64
  int64_t batch;                   // number of arrays
  int dims;                        // spatial axes, 1 to kBoxMassMaxDims
  int64_t shape[kBoxMassMaxDims];  // cells along each spatial axis, the last one contiguous
};

struct BoxMass {
  Weights weights;
  const int64_t* sizes;  // [size_count], cells along the edge of a box
  int64_t size_count;
  int64_t offsets;  // origins per axis and size: floor(j * size / offsets); 0 = every cell
  void* masses;     // [batch, box_mass_boxes()], int64 or double as the weights, written
};

// Boxes of all grids of all sizes, which is the length of a row of `masses`; -1 if it overflows.
// The grids of one size are the Cartesian product of its origins along each axis, the last axis
// fastest; so are the boxes of a grid. A grid of origin o has ceil((cells + o) / size) boxes along
// an axis; those at its ends may be partial.
int64_t box_mass_boxes(int dims, const int64_t* shape, const int64_t* sizes, int64_t size_count,
                       int64_t offsets);

void box_mass_cpu(const BoxMass& problem, const Parallel& parallel);

// Weights and masses in device memory, `sizes` on the host. Reads of `sizes` end with the call.
void box_mass_cuda(const BoxMass& problem, const CudaStream& stream);

// Over all positions of a box that lies wholly inside the array.
struct GlidingMass {
  Weights weights;       // not doubles
  const int64_t* sizes;  // [size_count], at most the smallest side
  int64_t size_count;
  int64_t* moments;  // [batch, size_count, 4], written: positions, sum of the masses modulo 2^64,
                     // sum of their squares div 2^62 and mod 2^62
};

void gliding_mass_cpu(const GlidingMass& problem, const Parallel& parallel);
void gliding_mass_cuda(const GlidingMass& problem, const CudaStream& stream);

}  // namespace fractalkern
