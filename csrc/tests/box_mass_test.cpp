// Checks the box_mass and gliding_mass kernels against sums over each box by itself, over random
// shapes, sizes and origins, for every instruction set of this CPU. Meant for sanitizers: the
// weights lie in a buffer of exactly their own length.
#include "box_mass/box_mass.h"

#include <algorithm>
#include <string>
#include <vector>

#include "tests/box_mass_problems.h"
#include "tests/grids.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int kProblems = 300;

// Sum over the part of a box that lies in the array.
int64_t mass_of(const OwnedWeights& p, int64_t item, const std::vector<int64_t>& start,
                int64_t size) {
  std::vector<int64_t> low(start.size()), extent(start.size()), index(start.size());
  for (size_t k = 0; k < start.size(); ++k) {
    low[k] = std::max<int64_t>(start[k], 0);
    extent[k] = std::min(start[k] + size, p.shape[k]) - low[k];
  }
  int64_t total = 0;
  do {
    int64_t cell = 0;
    for (size_t k = 0; k < start.size(); ++k) cell = cell * p.shape[k] + low[k] + index[k];
    total += p.weight(item * p.cells() + cell);
  } while (advance(index, extent));
  return total;
}

std::vector<int64_t> masses_by_hand(const OwnedWeights& p) {
  std::vector<int64_t> masses;
  for (int64_t item = 0; item < p.batch; ++item)
    for (const int64_t size : p.sizes)
      for_each_grid(p.shape.size(), size, p.offsets, [&](const std::vector<int64_t>& origin) {
        for_each_box(p.shape, origin, size, [&](const std::vector<int64_t>& start) {
          masses.push_back(mass_of(p, item, start, size));
        });
      });
  return masses;
}

std::vector<int64_t> moments_by_hand(const OwnedWeights& p) {
  std::vector<int64_t> moments;
  for (int64_t item = 0; item < p.batch; ++item) {
    for (const int64_t size : p.sizes) {
      std::vector<int64_t> start(p.shape.size()), positions(p.shape);
      for (int64_t& side : positions) side -= size - 1;
      int64_t count = 0, sum = 0;
      unsigned __int128 square = 0;
      do {
        const int64_t mass = mass_of(p, item, start, size);
        ++count;
        sum += mass;
        square += static_cast<unsigned __int128>(static_cast<__int128>(mass) * mass);
      } while (advance(start, positions));
      constexpr int64_t kLow = (int64_t{1} << 62) - 1;
      moments.insert(moments.end(), {count, sum, static_cast<int64_t>(square >> 62),
                                     static_cast<int64_t>(square) & kLow});
    }
  }
  return moments;
}

void check_problem(const OwnedWeights& p, const Parallel& parallel, const std::string& name) {
  BoxMass grids{p.weights(), p.sizes.data(), static_cast<int64_t>(p.sizes.size()), p.offsets,
                nullptr};
  const int64_t boxes =
      box_mass_boxes(grids.weights.dims, p.shape.data(), grids.sizes, grids.size_count, p.offsets);
  const auto expected = masses_by_hand(p);
  CHECK(static_cast<int64_t>(expected.size()) == p.batch * boxes, p.describe());
  std::vector<int64_t> masses(expected.size(), -1);
  std::vector<double> doubles(expected.size(), -1);
  const bool real = p.type == WeightType::kDouble;
  grids.masses = real ? static_cast<void*>(doubles.data()) : static_cast<void*>(masses.data());
  box_mass_cpu(grids, parallel);
  if (real) std::copy(doubles.begin(), doubles.end(), masses.begin());
  CHECK(masses == expected, name, p.describe());

  if (real) return;
  std::vector<int64_t> moments(static_cast<size_t>(4 * p.batch) * p.sizes.size(), -1);
  gliding_mass_cpu({p.weights(), p.sizes.data(), grids.size_count, moments.data()}, parallel);
  CHECK(moments == moments_by_hand(p), name, p.describe());
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  for_each_instruction_set([](const std::string& name) {
    Random random(20);
    for (int i = 0; i < kProblems; ++i) {
      const OwnedWeights problem = random_weights(random);
      check_problem(problem, thread_parallel(1 + i % 3), name);
    }
  });
  return testing_result();
}
