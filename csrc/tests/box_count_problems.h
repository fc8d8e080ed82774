// Random problems for the tests of box_count.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "box_count/box_count.h"
#include "tests/testing.h"

namespace fractalkern::testing {

// A problem that owns its mask, sizes and counts. The mask begins `shift` bytes into a buffer that
// ends with it.
struct OwnedBoxCount {
  BoxCount problem{};
  std::vector<int64_t> sizes, counts;
  std::unique_ptr<uint8_t[]> buffer;
  int64_t shift = 1;

  int64_t cells() const {
    int64_t product = problem.batch;
    for (int k = 0; k < problem.dims; ++k) product *= problem.shape[k];
    return product;
  }
  int64_t grids() const {
    return box_count_grids(problem.dims, sizes.data(), static_cast<int64_t>(sizes.size()),
                           problem.offsets);
  }
  // Lets the problem point at what it owns; fill(cell) is the byte of a cell.
  template <class Fill>
  void make(const Fill& fill) {
    problem.sizes = sizes.data();
    problem.size_count = static_cast<int64_t>(sizes.size());
    buffer = std::make_unique<uint8_t[]>(static_cast<size_t>(cells() + shift));
    for (int64_t i = 0; i < cells(); ++i) buffer[static_cast<size_t>(i + shift)] = fill(i);
    problem.mask = buffer.get() + shift;
    counts.assign(static_cast<size_t>(problem.batch * grids()), -1);
    problem.counts = counts.data();
  }
};

inline std::string describe(const BoxCount& p) {
  std::ostringstream text;
  text << "batch " << p.batch << ", shape";
  for (int k = 0; k < p.dims; ++k) text << ' ' << p.shape[k];
  text << ", sizes";
  for (int64_t s = 0; s < p.size_count; ++s) text << ' ' << p.sizes[s];
  text << ", offsets " << p.offsets << ", mixed " << p.mixed << ", crop " << p.crop;
  return text.str();
}

// Any shape, sizes, origins, rule and border, with at most 400 grids; nonzero bytes of any value.
inline OwnedBoxCount random_box_count(Random& random) {
  for (;;) {
    OwnedBoxCount owned;
    BoxCount& p = owned.problem;
    p.dims = static_cast<int>(1 + random.below(kBoxCountMaxDims));
    p.batch = random.below(4);
    const int64_t longest[] = {700, 150, 40, 12, 7};
    int64_t side = 1;
    for (int k = 0; k < p.dims; ++k) {
      p.shape[k] = 1 + random.below(longest[p.dims - 1]);
      if (random.below(4) == 0) p.shape[k] = std::min<int64_t>(p.shape[k], 1 + random.below(4));
      side = std::max(side, p.shape[k]);
    }
    const bool powers = random.below(2) == 0;
    for (int64_t i = 1 + random.below(4); i > 0; --i)
      owned.sizes.push_back(powers ? int64_t{1} << random.below(10) : 1 + random.below(side + 2));
    p.offsets = powers && random.below(3) > 0 ? 1 : random.below(5);
    p.mixed = random.below(2) == 0;
    p.crop = random.below(2) == 0;
    if (owned.grids() > 400) continue;
    const int64_t rarity = int64_t{1} << random.below(9);
    owned.make([&](int64_t) {
      return random.below(rarity) == 0 ? static_cast<uint8_t>(1 + random.below(255)) : uint8_t{0};
    });
    return owned;
  }
}

}  // namespace fractalkern::testing
