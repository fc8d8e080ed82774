// Checks the box_count kernel against a count of every box by itself, over random shapes, sizes,
// origins, rules and borders, for every instruction set of this CPU. Meant for sanitizers: the mask
// lies unaligned in a buffer of exactly its own length.
#include "box_count/box_count.h"

#include <algorithm>
#include <string>
#include <vector>

#include "tests/box_count_problems.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int kProblems = 300;

// Walks the indices below `limits` in row-major order; false after the last one.
bool advance(std::vector<int64_t>& index, const std::vector<int64_t>& limits) {
  for (size_t k = index.size(); k-- > 0;) {
    if (++index[k] < limits[k]) return true;
    index[k] = 0;
  }
  return false;
}

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
  const auto dims = static_cast<size_t>(p.dims);
  int64_t cells = 1;
  for (size_t k = 0; k < dims; ++k) cells *= p.shape[k];
  std::vector<int64_t> counts;
  for (int64_t item = 0; item < p.batch; ++item) {
    for (int64_t s = 0; s < p.size_count; ++s) {
      const int64_t size = p.sizes[s];
      std::vector<int64_t> origins;
      const int64_t steps = p.offsets == 0 ? size : p.offsets;
      for (int64_t j = 0; j < steps; ++j)
        if (origins.empty() || origins.back() != j * size / steps)
          origins.push_back(j * size / steps);
      std::vector<int64_t> grid(dims), grids(dims, static_cast<int64_t>(origins.size()));
      do {
        std::vector<int64_t> box(dims), boxes(dims), start(dims);
        for (size_t k = 0; k < dims; ++k)
          boxes[k] = (p.shape[k] + origins[static_cast<size_t>(grid[k])] + size - 1) / size;
        int64_t count = 0;
        do {
          for (size_t k = 0; k < dims; ++k)
            start[k] = box[k] * size - origins[static_cast<size_t>(grid[k])];
          count += counts_as_touched(p, p.mask + item * cells, start, size);
        } while (advance(box, boxes));
        counts.push_back(count);
      } while (advance(grid, grids));
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
