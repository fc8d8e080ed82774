// Where boxes lie along an axis, shared by host and device code.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fractalkern {

FRACTALKERN_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b != 0);
}

// Origin j of `count` origins of boxes of `size` cells: floor(j * size / count). Exact for j and
// count up to 2^32 and whenever count divides size.
FRACTALKERN_HOST_DEVICE constexpr int64_t box_origin(int64_t j, int64_t size, int64_t count) {
  const auto rest = static_cast<uint64_t>(j) * static_cast<uint64_t>(size % count);
  return j * (size / count) + static_cast<int64_t>(rest / static_cast<uint64_t>(count));
}

// Boxes of the first j of those origins together, where an axis of `cells` cells needs
// ceil((cells + origin) / size) of them. For size * count below 2^63.
FRACTALKERN_HOST_DEVICE constexpr int64_t boxes_before(int64_t j, int64_t cells, int64_t size,
                                                       int64_t count) {
  if (j == 0) return 0;
  const int64_t whole = cells / size, rest = cells % size;
  // An origin adds a box for the rest of the cells, and another one from size - rest + 1 on.
  const int64_t two_from = ceil_div((size - rest + 1) * count, size);
  return whole * j + (rest == 0 ? j - 1 : j) + (j > two_from ? j - two_from : 0);
}

}  // namespace fractalkern
