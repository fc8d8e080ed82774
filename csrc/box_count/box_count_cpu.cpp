// CPU kernel of box_count. Cells become bits as they are read (64 bytes to a word), and the mask is
// read once, whatever is asked: box_count_pyramid_cpu.cpp for powers of two from one origin,
// box_count_refinement_cpu.cpp for anything else.
#include <algorithm>

#include "box_count/box_count_bits.h"

namespace fractalkern {

int64_t box_count_origins(int64_t size, int64_t offsets) {
  return offsets == 0 ? size : std::min(size, offsets);
}

int64_t box_count_grids(int dims, const int64_t* sizes, int64_t size_count, int64_t offsets) {
  int64_t total = 0;
  for (int64_t i = 0; i < size_count; ++i) {
    int64_t grids = 1;
    for (int k = 0; k < dims; ++k)
      if (__builtin_mul_overflow(grids, box_count_origins(sizes[i], offsets), &grids)) return -1;
    if (__builtin_add_overflow(total, grids, &total)) return -1;
  }
  return total;
}

bool box_count_is_pyramid(const BoxCount& problem) {
  return problem.offsets == 1 && std::all_of(problem.sizes, problem.sizes + problem.size_count,
                                             [](int64_t size) { return (size & (size - 1)) == 0; });
}

void box_count_cpu(const BoxCount& problem, const Parallel& parallel) {
  if (box_count_is_pyramid(problem)) {
    count_powers_of_two(problem, parallel);
  } else {
    count_any_sizes(problem, parallel);
  }
}

}  // namespace fractalkern
