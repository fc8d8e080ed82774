// The boxes of grids one by one, for tests of the kernels that count them or add up in them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fractalkern::testing {

// Walks the indices below `limits` in row-major order; false after the last one.
inline bool advance(std::vector<int64_t>& index, const std::vector<int64_t>& limits) {
  for (size_t k = index.size(); k-- > 0;) {
    if (++index[k] < limits[k]) return true;
    index[k] = 0;
  }
  return false;
}

// Calls visit(origin) for each grid of boxes of that size over `dims` axes; `offsets` 0 stands for
// every origin.
template <class Visit>
void for_each_grid(size_t dims, int64_t size, int64_t offsets, const Visit& visit) {
  std::vector<int64_t> origins;
  const int64_t steps = offsets == 0 ? size : offsets;
  for (int64_t j = 0; j < steps; ++j)
    if (origins.empty() || origins.back() != j * size / steps) origins.push_back(j * size / steps);
  std::vector<int64_t> grid(dims), grids(dims, static_cast<int64_t>(origins.size()));
  std::vector<int64_t> origin(dims);
  do {
    for (size_t k = 0; k < dims; ++k) origin[k] = origins[static_cast<size_t>(grid[k])];
    visit(origin);
  } while (advance(grid, grids));
}

// Calls visit(start) for each box of a grid, in row-major order; a start may lie before the array.
template <class Visit>
void for_each_box(const std::vector<int64_t>& shape, const std::vector<int64_t>& origin,
                  int64_t size, const Visit& visit) {
  std::vector<int64_t> box(shape.size()), boxes(shape.size()), start(shape.size());
  for (size_t k = 0; k < shape.size(); ++k) boxes[k] = (shape[k] + origin[k] + size - 1) / size;
  do {
    for (size_t k = 0; k < shape.size(); ++k) start[k] = box[k] * size - origin[k];
    visit(start);
  } while (advance(box, boxes));
}

}  // namespace fractalkern::testing
