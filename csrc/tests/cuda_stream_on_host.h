// A stream for kernels that run on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "common/cuda_stream.h"

namespace fractalkern::cuda_on_host {

// Scratch of exactly the length asked for, aligned as a GPU's memory is and full of noise.
inline CudaStream stream_with_scratch() {
  constexpr std::align_val_t kAlignment{256};
  struct Free {
    void operator()(uint8_t* memory) const { operator delete[](memory, kAlignment); }
  };
  auto kept = std::make_shared<std::vector<std::unique_ptr<uint8_t[], Free>>>();
  return {0, nullptr, [kept](int64_t bytes) -> void* {
            kept->emplace_back(new (kAlignment) uint8_t[static_cast<size_t>(bytes)]);
            uint8_t* const memory = kept->back().get();
            for (int64_t i = 0; i < bytes; ++i) memory[i] = static_cast<uint8_t>(0x9d * i + 0x35);
            return memory;
          }};
}

}  // namespace fractalkern::cuda_on_host
