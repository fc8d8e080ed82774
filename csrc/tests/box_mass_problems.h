// Random problems for the tests of box_mass and gliding_mass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "box_mass/box_mass.h"
#include "tests/testing.h"

namespace fractalkern::testing {

// A problem that owns its weights.
struct OwnedWeights {
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

inline OwnedWeights random_weights(Random& random) {
  constexpr int64_t kLongest[] = {200, 40, 14, 8, 5};
  OwnedWeights p{};
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

}  // namespace fractalkern::testing
