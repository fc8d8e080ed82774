// Checks the box_mass and gliding_mass kernels against sums over each box by itself, over random
// shapes, sizes and origins, for every instruction set of this CPU. Meant for sanitizers: the
// weights lie in a buffer of exactly their own length.
#include "box_mass/box_mass.h"

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "tests/grids.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int kProblems = 300;

struct Problem {
  WeightType type;
  int64_t batch;
  std::vector<int64_t> shape, sizes;
  int64_t offsets;
  std::vector<uint8_t> bytes;
  std::vector<int64_t> integers;
  std::vector<double> doubles;

  int64_t cells() const {
    int64_t product = 1;
    for (const int64_t side : shape) product *= side;
    return product;
  }
  // Small whole numbers, which doubles add up without rounding.
  int64_t weight(int64_t cell) const {
    const auto i = static_cast<size_t>(cell);
    if (type == WeightType::kByte) return bytes[i];
    return type == WeightType::kInt64 ? integers[i] : static_cast<int64_t>(doubles[i]);
  }
  Weights weights() const {
    Weights w{};
    w.data = type == WeightType::kByte    ? static_cast<const void*>(bytes.data())
             : type == WeightType::kInt64 ? static_cast<const void*>(integers.data())
                                          : static_cast<const void*>(doubles.data());
    w.type = type;
    w.batch = batch;
    w.dims = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), w.shape);
    return w;
  }
  // Sum over the part of a box that lies in the array.
  int64_t mass(int64_t item, const std::vector<int64_t>& start, int64_t size) const {
    std::vector<int64_t> low(start.size()), extent(start.size()), index(start.size());
    for (size_t k = 0; k < start.size(); ++k) {
      low[k] = std::max<int64_t>(start[k], 0);
      extent[k] = std::min(start[k] + size, shape[k]) - low[k];
    }
    int64_t total = 0;
    do {
      int64_t cell = 0;
      for (size_t k = 0; k < start.size(); ++k) cell = cell * shape[k] + low[k] + index[k];
      total += weight(item * cells() + cell);
    } while (advance(index, extent));
    return total;
  }
  std::string describe() const {
    std::ostringstream text;
    text << "type " << static_cast<int>(type) << ", batch " << batch << ", shape";
    for (const int64_t side : shape) text << ' ' << side;
    text << ", sizes";
    for (const int64_t size : sizes) text << ' ' << size;
    text << ", offsets " << offsets;
    return text.str();
  }
};

std::vector<int64_t> masses_by_hand(const Problem& p) {
  std::vector<int64_t> masses;
  for (int64_t item = 0; item < p.batch; ++item)
    for (const int64_t size : p.sizes)
      for_each_grid(p.shape.size(), size, p.offsets, [&](const std::vector<int64_t>& origin) {
        for_each_box(p.shape, origin, size, [&](const std::vector<int64_t>& start) {
          masses.push_back(p.mass(item, start, size));
        });
      });
  return masses;
}

std::vector<int64_t> moments_by_hand(const Problem& p) {
  std::vector<int64_t> moments;
  for (int64_t item = 0; item < p.batch; ++item) {
    for (const int64_t size : p.sizes) {
      std::vector<int64_t> start(p.shape.size()), positions(p.shape);
      for (int64_t& side : positions) side -= size - 1;
      int64_t count = 0, sum = 0;
      unsigned __int128 square = 0;
      do {
        const int64_t mass = p.mass(item, start, size);
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

Problem random_problem(Random& random) {
  constexpr int64_t kLongest[] = {200, 40, 14, 8, 5};
  Problem p{};
  p.type = static_cast<WeightType>(random.below(3));
  p.batch = random.below(4);
  const int64_t dims = 1 + random.below(kBoxMassMaxDims);
  int64_t smallest = kLongest[0];
  for (int64_t k = 0; k < dims; ++k) {
    p.shape.push_back(1 + random.below(kLongest[dims - 1]));
    smallest = std::min(smallest, p.shape.back());
  }
  const int64_t count = 1 + random.below(4);
  for (int64_t i = 0; i < count; ++i) p.sizes.push_back(1 + random.below(smallest));
  p.offsets = random.below(3);
  if (dims > 2 && p.offsets == 0) p.offsets = 2;
  // Masses beyond 32 bits take another path through the squares.
  const int64_t unit = random.below(2) == 0 ? 1 : int64_t{1} << 33;
  for (int64_t i = 0; i < p.batch * p.cells(); ++i) {
    const int64_t weight = random.below(random.below(2) == 0 ? 2 : 256);
    if (p.type == WeightType::kByte) p.bytes.push_back(static_cast<uint8_t>(weight));
    if (p.type == WeightType::kInt64) p.integers.push_back((weight - 5) * unit);
    if (p.type == WeightType::kDouble) p.doubles.push_back(static_cast<double>(weight));
  }
  return p;
}

void check_problem(const Problem& p, const Parallel& parallel, const std::string& name) {
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
      const Problem problem = random_problem(random);
      check_problem(problem, thread_parallel(1 + i % 3), name);
    }
  });
  return testing_result();
}
