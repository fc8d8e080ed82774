// The half spectrum of Gaussian fields with power ~ |k|^-beta; see fractalkern/ops/fractal_noise.py
// for the process and reference/fractal_noise.py for the rule that gives a mode its random numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/cuda_stream.h"
#include "common/parallel.h"

namespace fractalkern {

constexpr int kFractalNoiseMaxAxes = 5;

enum class Spectrum { kGaussian, kPhase, kGenesis };
enum class Normalize { kNone, kSample, kEnsemble };

// T is double or float. The coefficients are those of a plain sum of modes: the variance of the
// field is the sum of |coefficient|^2 over the full spectrum.
template <class T>
struct FractalNoiseArgs {
  int axes;                            // d, 1 to kFractalNoiseMaxAxes
  int64_t size[kFractalNoiseMaxAxes];  // N, 1 to 2^31 - 1
  double step[kFractalNoiseMaxAxes];   // 1 / (N spacing): the frequency of mode 1
  double k_min;                        // modes with k_min <= |k| <= k_max; infinity: no limit
  double k_max;
  int64_t items;
  const double* beta;  // [items]
  uint64_t seed;
  bool common_noise;  // every item draws as item 0
  Spectrum spectrum;
  Normalize normalize;
  T* out;  // [items, N_0, ..., N_{d-2}, N_{d-1} / 2 + 1, 2]: real and imaginary part
};

void fractal_noise_cpu(const FractalNoiseArgs<double>& args, const Parallel& parallel);
void fractal_noise_cpu(const FractalNoiseArgs<float>& args, const Parallel& parallel);

// `beta` and `out` are memory of the stream's device, which `out` is 16-byte aligned in.
void fractal_noise_cuda(const FractalNoiseArgs<double>& args, const CudaStream& stream);
void fractal_noise_cuda(const FractalNoiseArgs<float>& args, const CudaStream& stream);

struct NoiseBand {
  bool limited;          // some modes but k = 0 are out of it
  double lowest_square;  // of |k|
  double highest_square;
};

template <class T>
NoiseBand noise_band(const FractalNoiseArgs<T>& args) {
  constexpr double kSlack = 1e-12;  // a limit that is a mode's own |k| keeps it, rounding or not
  return {args.k_min > 0 || args.k_max < std::numeric_limits<double>::infinity(),
          args.k_min * args.k_min * (1 - kSlack), args.k_max * args.k_max * (1 + kSlack)};
}

// The smallest |k|^2 of the band for beta > 0, else the largest: amplitudes relative to it are at
// most 1 and cannot overflow.
template <class T>
double reference_square(const FractalNoiseArgs<T>& args, bool beta_is_positive) {
  double smallest = std::numeric_limits<double>::infinity(), largest = 0;
  for (int axis = 0; axis < args.axes; ++axis) {
    if (args.size[axis] == 1) continue;
    const double square = args.step[axis] * args.step[axis];
    const double last = static_cast<double>(args.size[axis] / 2);
    smallest = std::min(smallest, square);
    largest += last * last * square;
  }
  if (largest == 0) return 1;
  if (beta_is_positive) return std::max(smallest, args.k_min * args.k_min);
  return std::min(largest, args.k_max * args.k_max);
}

// Rows to be copied elsewhere, cut short, while they are in cache.
template <class T>
struct RowsArgs {
  const T* from;  // [rows, stride], of which the first `columns` count
  int64_t rows;
  int64_t stride;
  int64_t columns;
  T* to;  // [rows, columns]
};

struct Moments {
  double sum = 0;
  double squares = 0;
};

Moments copy_rows_cpu(const RowsArgs<double>& args, const Parallel& parallel);
Moments copy_rows_cpu(const RowsArgs<float>& args, const Parallel& parallel);

// The random words of one counter, for tests: out[4] of counter[4] under key[2].
void philox_words_cpu(const uint32_t* counter, const uint32_t* key, uint32_t* out);

}  // namespace fractalkern
