// The half spectrum of Gaussian fields with power ~ |k|^-beta; see fractalkern/ops/fractal_noise.py
// for the process and reference/fractal_noise.py for the rule that gives a mode its random numbers.
#pragma once

#include <cstdint>

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
