// The top singular triple of many matrices; see fractalkern/ops/power_iteration.py for the
// definitions and for the theorems behind the bounds.
#pragma once

#include <cstdint>

#include "common/parallel.h"

namespace fractalkern {

enum class SpectralStatus : int64_t {
  kIterated = 0,      // all passes that were asked for, no tolerance given
  kConverged = 1,     // residual <= tol
  kNotConverged = 2,  // the passes ran out first
  kZero = 3,          // every entry is zero, or there is none
  kNonFinite = 4,     // an entry is NaN or infinite
};

struct SpectralMatrix {
  const void* data;  // [rows, columns], float or double, the last axis contiguous
  bool wide;         // double
  int64_t rows, columns, row_stride;
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

}  // namespace fractalkern
