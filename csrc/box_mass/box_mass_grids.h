// The grids of box_mass: origins, and which grids nest in which.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/boxes.h"

namespace fractalkern {

// Distinct origins along an axis, ascending.
inline std::vector<int64_t> origins_of(int64_t size, int64_t offsets) {
  const int64_t count = offsets == 0 ? size : std::min(size, offsets);
  std::vector<int64_t> origins(static_cast<size_t>(count));
  for (int64_t j = 0; j < count; ++j)
    origins[static_cast<size_t>(j)] = static_cast<int64_t>(static_cast<__int128>(j) * size / count);
  return origins;
}

// The grids of one size; its origins are the same along every axis.
struct SizeGrids {
  int64_t size;
  std::vector<int64_t> origins;
  std::vector<int64_t> columns;  // of each grid, within a row of the result
};

inline int64_t boxes_along(int64_t cells, int64_t origin, int64_t size) {
  return ceil_div(cells + origin, size);
}

// For each origin of `coarse` the number of the origin of `fine` that it nests on; empty if the
// boxes do not nest.
inline std::vector<int64_t> nesting(const SizeGrids& fine, const SizeGrids& coarse) {
  std::vector<int64_t> indices;
  if (coarse.size % fine.size != 0) return indices;
  for (const int64_t origin : coarse.origins) {
    const auto found =
        std::lower_bound(fine.origins.begin(), fine.origins.end(), origin % fine.size);
    if (found == fine.origins.end() || *found != origin % fine.size) return {};
    indices.push_back(found - fine.origins.begin());
  }
  return indices;
}

}  // namespace fractalkern
