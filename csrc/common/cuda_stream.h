// Where a CUDA kernel runs, in plain C++: the glue that torch's headers need and the .cu files that
// must not see them meet here.
#pragma once

#include <cstdint>
#include <functional>

namespace fractalkern {

#if defined(FRACTALKERN_CUDA_ARCHITECTURES) || defined(FRACTALKERN_CUDA_ON_HOST)
constexpr bool kCudaBuilt = true;
#else
constexpr bool kCudaBuilt = false;
#endif

struct CudaStream {
  int device;
  void* handle;  // cudaStream_t
  // `bytes` of device memory, 256-byte aligned, valid for work queued on this stream by the call.
  std::function<void*(int64_t bytes)> scratch;
};

}  // namespace fractalkern
