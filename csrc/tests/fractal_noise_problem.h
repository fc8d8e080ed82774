// Fields that the tests of the CPU and the CUDA kernel draw.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "fractal_noise/fractal_noise.h"
#include "tests/testing.h"

namespace fractalkern::testing {

inline const std::vector<std::vector<int64_t>> kSizes = {
    {1},       {2},          {3},          {33},         {40000},         {1, 1},
    {7, 8},    {8, 7},       {129, 255},   {300, 2},     {3, 5, 4},       {16, 30, 41},
    {4, 4, 4}, {2, 3, 4, 5}, {6, 5, 4, 7}, {1, 1, 1, 1}, {2, 3, 4, 3, 2}, {4, 1, 5, 2, 9}};

inline int64_t modes_of(const std::vector<int64_t>& size) {
  int64_t modes = size.back() / 2 + 1;
  for (std::size_t i = 0; i + 1 < size.size(); ++i) modes *= size[i];
  return modes;
}

struct NoiseProblem {
  std::vector<int64_t> size;
  Spectrum spectrum = Spectrum::kGaussian;
  Normalize normalize = Normalize::kSample;
  std::vector<double> beta = {1.5, -0.5};  // one an item
  double k_min = 0;
  double k_max = std::numeric_limits<double>::infinity();
  bool common_noise = false;
  uint64_t seed = 0xFEDCBA9876543210;
};

// The half spectra of all items; `out` starts as NaN.
template <class T>
FractalNoiseArgs<T> noise_args(const NoiseProblem& problem, std::vector<T>& out) {
  FractalNoiseArgs<T> args{};
  args.axes = static_cast<int>(problem.size.size());
  for (int i = 0; i < args.axes; ++i) {
    args.size[i] = problem.size[i];
    args.step[i] = 1.0 / static_cast<double>(problem.size[i]);
  }
  args.k_min = problem.k_min;
  args.k_max = problem.k_max;
  args.items = static_cast<int64_t>(problem.beta.size());
  args.beta = problem.beta.data();
  args.seed = problem.seed;
  args.common_noise = problem.common_noise;
  args.spectrum = problem.spectrum;
  args.normalize = problem.normalize;
  out.assign(2 * modes_of(problem.size) * args.items, std::numeric_limits<T>::quiet_NaN());
  args.out = out.data();
  return args;
}

template <class T>
std::vector<T> noise_of_cpu(const NoiseProblem& problem, int64_t threads) {
  std::vector<T> out;
  fractal_noise_cpu(noise_args(problem, out), thread_parallel(threads));
  return out;
}

}  // namespace fractalkern::testing
