// What dropout multiplies elements by, each by a random word of its own.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/parallel.h"

namespace fractalkern {

struct DropoutMask {
  const int64_t* keys;  // [rows, 2], words of 32 bits
  int64_t rows, count;  // masks and elements of each
  uint32_t counter[3];  // the words of the counter behind the first
  uint64_t threshold;   // 0 to 2^32
  float scale;
  float* values;  // [rows, count], written: `scale` where the word is at least `threshold`, else 0
};

// Element e has word e mod 4 of philox4x32 at the counter (e div 4, counter...) under its row's
// key.
void dropout_mask_cpu(const DropoutMask& mask, const Parallel& parallel);
void dropout_mask_cuda(const DropoutMask& mask, const CudaStream& stream);

}  // namespace fractalkern
