// Numbers whose width is known when a kernel runs, not when it is compiled.
#pragma once

#include <cstdint>

#include "common/cuda_launch.h"

namespace fractalkern {

__device__ __forceinline__ void store_number(void* to, int64_t at, double value, bool wide) {
  if (wide) {
    static_cast<double*>(to)[at] = value;
  } else {
    static_cast<float*>(to)[at] = static_cast<float>(value);
  }
}

__device__ __forceinline__ double load_number(const void* from, int64_t at, bool wide) {
  return wide ? static_cast<const double*>(from)[at] : static_cast<const float*>(from)[at];
}

}  // namespace fractalkern
