// Checks the box_count kernel against a count of every box by itself, over random shapes, sizes,
// origins, rules and borders, for every instruction set of this CPU. Meant for sanitizers: the mask
// lies unaligned in a buffer of exactly its own length.
#include "box_count/box_count.h"

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/grids.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int kProblems = 300;

bool counts_as_touched(const BoxCount& p, const uint8_t* mask, const std::vector<int64_t>& start,
                       int64_t size) {
  std::vector<int64_t> low(start.size()), extent(start.size()), index(start.size());
  for (size_t k = 0; k < start.size(); ++k) {
    low[k] = std::max<int64_t>(start[k], 0);
    const int64_t high = std::min(start[k] + size, p.shape[k]);
    if (p.crop && (start[k] < 0 || start[k] + size > p.shape[k])) return false;
    extent[k] = high - low[k];
  }
  bool one = false, zero = false;
  do {
    int64_t cell = 0;
    for (size_t k = 0; k < start.size(); ++k) cell = cell * p.shape[k] + low[k] + index[k];
    (mask[cell] != 0 ? one : zero) = true;
  } while (advance(index, extent));
  return one && (zero || !p.mixed);
}

std::vector<int64_t> brute_force(const BoxCount& p) {
  const std::vector<int64_t> shape(p.shape, p.shape + p.dims);
  int64_t cells = 1;
  for (const int64_t side : shape) cells *= side;
  std::vector<int64_t> counts;
  for (int64_t item = 0; item < p.batch; ++item) {
    for (int64_t s = 0; s < p.size_count; ++s) {
      const int64_t size = p.sizes[s];
      for_each_grid(shape.size(), size, p.offsets, [&](const std::vector<int64_t>& origin) {
        int64_t count = 0;
        for_each_box(shape, origin, size, [&](const std::vector<int64_t>& start) {
          count += counts_as_touched(p, p.mask + item * cells, start, size);
        });
        counts.push_back(count);
      });
    }
  }
  return counts;
}

std::string describe(const BoxCount& p) {
  std::ostringstream text;
  text << "batch " << p.batch << ", shape";
  for (int k = 0; k < p.dims; ++k) text << ' ' << p.shape[k];
  text << ", sizes";
  for (int64_t s = 0; s < p.size_count; ++s) text << ' ' << p.sizes[s];
  text << ", offsets " << p.offsets << ", mixed " << p.mixed << ", crop " << p.crop;
  return text.str();
}

void check_random_problem(Random& random, const std::string& instruction_set) {
  BoxCount p{};
  p.dims = static_cast<int>(1 + random.below(kBoxCountMaxDims));
  p.batch = random.below(4);
  const int64_t longest[] = {700, 150, 40, 12, 7};
  int64_t cells = 1, side = 1;
  for (int k = 0; k < p.dims; ++k) {
    p.shape[k] = 1 + random.below(longest[p.dims - 1]);
    if (random.below(4) == 0) p.shape[k] = std::min<int64_t>(p.shape[k], 1 + random.below(4));
    cells *= p.shape[k];
    side = std::max(side, p.shape[k]);
  }
  std::vector<int64_t> sizes;
  const bool powers = random.below(2) == 0;
  for (int64_t i = 1 + random.below(4); i > 0; --i)
    sizes.push_back(powers ? int64_t{1} << random.below(10) : 1 + random.below(side + 2));
  p.sizes = sizes.data();
  p.size_count = static_cast<int64_t>(sizes.size());
  p.offsets = powers && random.below(3) > 0 ? 1 : random.below(5);
  p.mixed = random.below(2) == 0;
  p.crop = random.below(2) == 0;
  const int64_t grids = box_count_grids(p.dims, p.sizes, p.size_count, p.offsets);
  if (grids > 400) return check_random_problem(random, instruction_set);

  const auto mask = std::make_unique<uint8_t[]>(static_cast<size_t>(p.batch * cells + 1));
  const int64_t rarity = int64_t{1} << random.below(9);
  for (int64_t i = 0; i < p.batch * cells; ++i)
    mask[static_cast<size_t>(i + 1)] =
        random.below(rarity) == 0 ? static_cast<uint8_t>(1 + random.below(255)) : uint8_t{0};
  p.mask = mask.get() + 1;
  std::vector<int64_t> counts(static_cast<size_t>(p.batch * grids), -1);
  p.counts = counts.data();
  box_count_cpu(p, thread_parallel(1 + random.below(3)));
  CHECK(counts == brute_force(p), instruction_set, describe(p));
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  for_each_instruction_set([](const std::string& name) {
    Random random(20240213);
    for (int i = 0; i < kProblems; ++i) check_random_problem(random, name);
  });
  return testing_result();
}
