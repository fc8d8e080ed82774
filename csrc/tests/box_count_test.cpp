// Checks the box_count kernel against a count of every box by itself, over random shapes, sizes,
// origins, rules and borders, for every instruction set of this CPU. Meant for sanitizers: the mask
// lies unaligned in a buffer of exactly its own length.
#include "box_count/box_count.h"

#include <algorithm>
#include <string>
#include <vector>

#include "tests/box_count_problems.h"
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

void check_random_problem(Random& random, const std::string& instruction_set) {
  OwnedBoxCount owned = random_box_count(random);
  box_count_cpu(owned.problem, thread_parallel(1 + random.below(3)));
  CHECK(owned.counts == brute_force(owned.problem), instruction_set, describe(owned.problem));
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
