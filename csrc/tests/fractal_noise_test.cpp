// fractal_noise without Python: published random words, exact Hermitian symmetry, power, and the
// same bits for any number of threads and instruction set, into buffers of exactly the right size;
// rows copied with their moments.
#include "fractal_noise/fractal_noise.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/fractal_noise_problem.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

template <class T>
std::vector<T> draw(const std::vector<int64_t>& size, Spectrum spectrum, Normalize normalize,
                    int64_t threads) {
  const NoiseProblem problem{.size = size, .spectrum = spectrum, .normalize = normalize};
  return noise_of_cpu<T>(problem, threads);
}

// Index of the mode whose leading coordinates are the negatives of those of row `row`.
int64_t mirrored_row(const std::vector<int64_t>& size, int64_t row) {
  int64_t mirrored = 0, stride = 1;
  for (int axis = static_cast<int>(size.size()) - 2; axis >= 0; --axis) {
    mirrored += (size[axis] - row % size[axis]) % size[axis] * stride;
    row /= size[axis];
    stride *= size[axis];
  }
  return mirrored;
}

template <class T>
void test_symmetry_and_power(const std::vector<int64_t>& size, const std::vector<T>& out) {
  const int64_t columns = size.back() / 2 + 1, modes = modes_of(size);
  for (int64_t item = 0; item < 2; ++item) {
    const T* values = out.data() + 2 * modes * item;
    double power = 0;
    for (int64_t i = 0; i < modes; ++i) {
      const int64_t row = i / columns, column = i % columns;
      const bool plane = column == 0 || 2 * column == size.back();
      const double re = values[2 * i], im = values[2 * i + 1];
      CHECK(std::isfinite(re) && std::isfinite(im), item, i, re, im);
      power += (plane ? 1 : 2) * (re * re + im * im);
      if (!plane) continue;
      const T* twin = values + 2 * (mirrored_row(size, row) * columns + column);
      CHECK(twin[0] == values[2 * i] && twin[1] == -values[2 * i + 1], item, i, re, im, twin[0]);
    }
    CHECK(values[0] == 0 && values[1] == 0);
    CHECK(std::abs(power - (modes > 1 ? 1 : 0)) < 1e-5, item, modes, power);
  }
}

template <class T>
void test_bits() {
  for (const auto& size : kSizes) {
    for (const auto spectrum : {Spectrum::kGaussian, Spectrum::kPhase, Spectrum::kGenesis}) {
      std::vector<T> first;
      for_each_instruction_set([&](const std::string& name) {
        for (int64_t threads : {1, 3}) {
          const auto out = draw<T>(size, spectrum, Normalize::kSample, threads);
          if (first.empty()) {
            first = out;
            test_symmetry_and_power(size, out);
          }
          const bool same = std::memcmp(first.data(), out.data(), out.size() * sizeof(T)) == 0;
          CHECK(same, name, threads, size.size(), size[0]);
        }
      });
    }
  }
}

void test_published_words() {
  const uint32_t counter[4] = {0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344};
  const uint32_t key[2] = {0xA4093822, 0x299F31D0};
  const uint32_t expected[4] = {0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1};
  uint32_t words[4];
  philox_words_cpu(counter, key, words);
  for (int i = 0; i < 4; ++i) CHECK(words[i] == expected[i], i, words[i]);
}

template <class T>
void test_rows(int64_t rows, int64_t stride, int64_t columns) {
  Random random(3);
  std::vector<T> field((rows - 1) * stride + columns);
  for (T& value : field) value = static_cast<T>(random.normal());
  Moments first;
  bool known = false;
  for_each_instruction_set([&](const std::string& name) {
    for (int64_t threads : {1, 3}) {
      std::vector<T> out(rows * columns);
      const RowsArgs<T> args{field.data(), rows, stride, columns, out.data()};
      const Moments moments = copy_rows_cpu(args, thread_parallel(threads));
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < rows * columns; ++i) {
        const T value = field[i / columns * stride + i % columns];
        CHECK(out[i] == value, name, i);
        sum += double{value};
        squares += double{value} * value;
      }
      CHECK(std::abs(moments.sum - sum) < 1e-5 * squares, name, moments.sum, sum);
      CHECK(std::abs(moments.squares - squares) < 1e-5 * squares, name, moments.squares, squares);
      if (known)
        CHECK(moments.sum == first.sum && moments.squares == first.squares, name, threads, columns);
      first = moments;
      known = true;
    }
  });
}

template <class T>
void test_rows() {
  test_rows<T>(1, 1, 1);
  test_rows<T>(3, 40, 33);
  test_rows<T>(70, 1000, 999);
  test_rows<T>(300, 520, 512);
}

void test_ensemble_scale_is_that_of_the_amplitudes() {
  // Phases alone are random here, so the sample has the expected power.
  for (const auto& size : kSizes) {
    const auto sample = draw<double>(size, Spectrum::kPhase, Normalize::kSample, 1);
    const auto ensemble = draw<double>(size, Spectrum::kPhase, Normalize::kEnsemble, 1);
    for (std::size_t i = 0; i < sample.size(); ++i)
      CHECK(std::abs(sample[i] - ensemble[i]) < 1e-14, i, sample[i], ensemble[i]);
  }
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  test_published_words();
  test_bits<float>();
  test_bits<double>();
  test_rows<float>();
  test_rows<double>();
  test_ensemble_scale_is_that_of_the_amplitudes();
  return testing_result();
}
