// fractal_noise in CUDA, run on the CPU, beside the CPU kernel: the same modes to rounding, bits
// that do not depend on the schedule or the batch, exact symmetry.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/cuda_on_host.h"
#include "tests/fractal_noise_problem.h"

namespace fractalkern::testing {
namespace {

// Device memory for one call that ends where it should: the sanitizers see what goes beyond.
template <class T>
std::vector<T> noise_of_cuda(const NoiseProblem& problem) {
  std::vector<T> out;
  const FractalNoiseArgs<T> args = noise_args(problem, out);
  auto memory = std::make_shared<std::vector<std::vector<double>>>();
  const CudaStream stream{0, nullptr, [memory](int64_t bytes) -> void* {
                            memory->emplace_back((bytes + 7) / 8, std::nan(""));
                            return memory->back().data();
                          }};
  // Stores are of 16 bytes: vectors of the standard library are aligned so.
  CHECK(reinterpret_cast<uintptr_t>(args.out) % 16 == 0);
  fractal_noise_cuda(args, stream);
  return out;
}

double modulus(const double* mode) { return std::hypot(mode[0], mode[1]); }

// What a mode's modulus is when its random number is 1, for each value of the spectrum. Genesis
// multiplies by a cosine, which may be anything down to 0 and has an absolute error.
std::vector<double> amplitudes(const NoiseProblem& problem, const std::vector<double>& scaled) {
  NoiseProblem plain = problem;
  plain.normalize = Normalize::kNone;
  const std::vector<double> unscaled = noise_of_cpu<double>(plain, 2);
  plain.spectrum = Spectrum::kPhase;
  const std::vector<double> phases = noise_of_cpu<double>(plain, 2);
  std::vector<double> result(phases.size());
  const std::size_t values = 2 * modes_of(problem.size);
  for (std::size_t first = 0; first < result.size(); first += values) {
    std::size_t largest = first;
    for (std::size_t i = first; i < first + values; i += 2)
      if (modulus(&unscaled[i]) > modulus(&unscaled[largest])) largest = i;
    if (unscaled[largest] == 0) continue;
    const double factor = modulus(&scaled[largest]) / modulus(&unscaled[largest]);
    for (std::size_t i = first; i < first + values; i += 2)
      result[i] = factor * modulus(&phases[i]);
  }
  return result;
}

template <class T>
void compare(const NoiseProblem& problem, double tolerance) {
  const std::vector<T> ours = noise_of_cuda<T>(problem);
  const std::vector<T> of_cpu = noise_of_cpu<T>(problem, 2);
  const std::vector<double> expected(of_cpu.begin(), of_cpu.end());
  const std::vector<double> amplitude = amplitudes(problem, expected);
  for (std::size_t i = 0; i < ours.size(); i += 2) {
    const double difference[] = {ours[i] - expected[i], ours[i + 1] - expected[i + 1]};
    const double size = std::max(modulus(&expected[i]), amplitude[i]);
    CHECK(modulus(difference) <= tolerance * size + 1e-30, problem.size.size(), problem.size[0],
          static_cast<int>(problem.spectrum), static_cast<int>(problem.normalize), i / 2, ours[i],
          ours[i + 1], expected[i], expected[i + 1], amplitude[i]);
  }
}

void compare(const NoiseProblem& problem) {
  compare<double>(problem, 3e-14);
  compare<float>(problem, 4e-6);
}

void test_modes_are_those_of_the_cpu() {
  for (const auto& size : kSizes)
    for (const auto spectrum : {Spectrum::kGaussian, Spectrum::kPhase, Spectrum::kGenesis})
      for (const auto normalize : {Normalize::kSample, Normalize::kEnsemble, Normalize::kNone})
        compare({.size = size, .spectrum = spectrum, .normalize = normalize});
}

void test_bands_batches_and_common_noise() {
  const std::vector<double> betas = {0, 2, -3, 0.75, 1e-3};
  for (const auto& size : kSizes) {
    compare({.size = size, .beta = betas});
    compare({.size = size, .beta = betas, .common_noise = true});
    compare({.size = size, .beta = betas, .k_min = 0.25, .k_max = 0.4});
    // Limits that are the |k| of modes.
    compare({.size = size, .normalize = Normalize::kNone, .k_min = 1.0 / 3, .k_max = 0.5});
    compare({.size = size, .normalize = Normalize::kEnsemble, .k_max = std::sqrt(2.0) / 4});
    compare({.size = size, .k_min = 5});  // no mode is left
  }
  compare({.size = {3, 5}, .beta = std::vector<double>(70, 1.0)});
}

template <class T>
void test_bits_do_not_depend_on_schedule_or_batch() {
  for (const auto& size : kSizes) {
    for (const auto spectrum : {Spectrum::kGaussian, Spectrum::kGenesis}) {
      NoiseProblem problem{.size = size, .spectrum = spectrum, .beta = {1.5, 0.5, -1}};
      cuda_on_host::schedule = 0;
      const std::vector<T> first = noise_of_cuda<T>(problem);
      for (cuda_on_host::schedule = 1; cuda_on_host::schedule < 3; ++cuda_on_host::schedule) {
        const std::vector<T> again = noise_of_cuda<T>(problem);
        CHECK(std::memcmp(first.data(), again.data(), first.size() * sizeof(T)) == 0, size[0]);
      }
      cuda_on_host::schedule = 0;
      problem.beta = {1.5};
      const std::vector<T> alone = noise_of_cuda<T>(problem);
      CHECK(std::memcmp(first.data(), alone.data(), alone.size() * sizeof(T)) == 0, size[0]);
    }
  }
}

void test_equal_items_are_equal() {
  for (const auto& size : kSizes) {
    const auto out = noise_of_cuda<float>({.size = size, .beta = {1, 1}, .common_noise = true});
    const std::size_t half = out.size() / 2;
    CHECK(std::memcmp(out.data(), out.data() + half, half * sizeof(float)) == 0, size[0]);
  }
}

// Uniform numbers near 1, whose logarithms lose their digits first.
void test_the_smallest_radii() {
  const NoiseProblem problem{.size = {1 << 18}, .beta = {0}};
  const std::vector<float> ours = noise_of_cuda<float>(problem);
  const std::vector<double> expected = noise_of_cpu<double>(problem, 2);
  double smallest = 1, largest = 0;
  for (std::size_t i = 2; i + 2 < ours.size(); i += 2) {
    const double modulus = std::hypot(expected[i], expected[i + 1]);
    const double error = std::hypot(ours[i] - expected[i], ours[i + 1] - expected[i + 1]);
    CHECK(error <= 3e-6 * modulus, i, modulus, error);
    smallest = std::min(smallest, modulus);
    largest = std::max(largest, modulus);
  }
  CHECK(smallest < 1e-2 * largest);
}

// Modes that fill their tiles to the last one: nothing is left for the mode before an item.
void test_full_tiles() {
  for (const auto& size : {std::vector<int64_t>{64, 62}, {2046}, {2, 2046}, {8, 16, 14}}) {
    compare({.size = size});
    compare({.size = size, .normalize = Normalize::kNone, .beta = {1, 0.5, 2}});
  }
}

// Axes so unequal that |k|^2 overflows a float relative to the smallest one: white noise stays
// white.
void test_steps_beyond_the_range_of_float() {
  const NoiseProblem problem{.size = {6, 5}, .normalize = Normalize::kEnsemble, .beta = {0}};
  for (const double small : {1e-25, 1e-15}) {
    std::vector<float> out;
    FractalNoiseArgs<float> args = noise_args(problem, out);
    args.step[0] = small;
    std::vector<std::vector<double>> memory;
    fractal_noise_cuda(args, {0, nullptr, [&](int64_t bytes) -> void* {
                                return memory.emplace_back((bytes + 7) / 8).data();
                              }});
    for (const float value : out) CHECK(std::isfinite(value), small, value);
  }
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  test_modes_are_those_of_the_cpu();
  test_bands_batches_and_common_noise();
  test_bits_do_not_depend_on_schedule_or_batch<float>();
  test_bits_do_not_depend_on_schedule_or_batch<double>();
  test_equal_items_are_equal();
  test_the_smallest_radii();
  test_full_tiles();
  test_steps_beyond_the_range_of_float();
  return testing_result();
}
