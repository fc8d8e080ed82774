// The top singular triple of many matrices; see fractalkern/ops/power_iteration.py for the
// definitions and for the theorems behind the bounds.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/host_device.h"
#include "common/parallel.h"

namespace fractalkern {

enum class SpectralType : int32_t { kFloat, kDouble, kHalf, kBFloat16 };

FRACTALKERN_HOST_DEVICE int64_t bytes_of(SpectralType type) {
  return type == SpectralType::kDouble ? 8 : type == SpectralType::kFloat ? 4 : 2;
}

enum class SpectralStatus : int64_t {
  kIterated = 0,      // all passes that were asked for, no tolerance given
  kConverged = 1,     // residual <= tol
  kNotConverged = 2,  // the passes ran out first
  kZero = 3,          // every entry is zero, or there is none
  kNonFinite = 4,     // an entry is NaN or infinite
};

struct SpectralMatrix {
  const void* data;  // [rows, columns]
  SpectralType type;
  int64_t rows, columns, row_stride, column_stride;
  const double* start;  // [columns], not zero and finite, or nullptr: random
  double* u;            // [rows], written
  double* v;            // [columns], written
  double sigma, residual, lower, upper;
  int64_t iterations;
  SpectralStatus status;
};

struct PowerIteration {
  SpectralMatrix* matrices;
  int64_t count;
  int64_t passes;  // at most so many reads of each matrix, >= 1
  double tol;      // < 0: none
  bool lanczos;
  double delta;  // probability with which `upper` may fail
  uint64_t seed;
};

void power_iteration_cpu(const PowerIteration& problem, const Parallel& parallel);

// gradient[i] = scale u v^T, rounded to float or kept in double.
struct SpectralGradient {
  void* gradient;  // [rows, columns], contiguous
  bool wide;
  int64_t rows, columns;
  double scale;
  const double* u;  // [rows]
  const double* v;  // [columns]
};

void power_iteration_backward_cpu(const SpectralGradient* gradients, int64_t count,
                                  const Parallel& parallel);

// --- on a GPU -----------------------------------------------------------------------------------

// [stack, rows, columns] on the device, the last axis contiguous; all of it if stack > 1.
struct SpectralWeight {
  const void* data;
  SpectralType type;
  int64_t stack, rows, columns, row_stride;
};

constexpr int64_t kMostRowsOnCuda = (int64_t{1} << 31) - 1;  // and columns

// Pointers but that of the weights are to the device; to numbers in double if `wide`, else float.
struct PowerIterationCuda {
  const SpectralWeight* weights;
  int64_t count;  // of weights; they hold B matrices, with L rows and R columns in all
  int64_t passes;
  double tol;
  bool lanczos;
  double delta;
  uint64_t seed;
  const void* start;  // [R] in double if `start_wide`, or nullptr; random where a vector is zero
  bool start_wide;
  bool wide;
  void* sigma;     // [B]
  void* vectors;   // [L + R]: the left ones, then the right ones
  void* bounds;    // [3, B]: residual, lower, upper; or nullptr
  int64_t* codes;  // [2, B]: iterations, status; or nullptr
  void* next;      // [R]: the right vectors, of matrices that are zero their start; or nullptr
};

void power_iteration_cuda(const PowerIterationCuda& problem, const CudaStream& stream);

// gradient = scale u v^T for every matrix of a stack, in the stack's own type.
struct SpectralGradientCuda {
  void* gradient;  // [stack, rows, columns], contiguous
  SpectralType type;
  int64_t stack, rows, columns;
  const void* scale;  // [stack], in double if `wide`, else float, and so are
  const void* u;      // [stack, rows]
  const void* v;      // [stack, columns]
};

void power_iteration_backward_cuda(const SpectralGradientCuda* gradients, int64_t count, bool wide,
                                   const CudaStream& stream);

// penalty[r] = weight[r] sum over the matrices i of group r = i mod groups of
// (sigma_i - target_i)^2; slope_i = d penalty / d sigma_i.
struct SpectralPenaltyCuda {
  int64_t count, groups;
  bool wide;                      // sigma, penalty and slope in double
  bool target_wide, weight_wide;  // double, else float
  const void *sigma, *target;     // [count]
  const void* weight;             // [groups]
  void *penalty, *slope;          // [groups], [count]
};

void spectral_penalty_cuda(const SpectralPenaltyCuda& problem, const CudaStream& stream);

}  // namespace fractalkern
