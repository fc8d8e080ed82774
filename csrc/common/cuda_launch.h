// What every .cu file shares: CUDA's runtime, launches whose errors become sentences, the device
// guard. With FRACTALKERN_CUDA_ON_HOST the same source runs on the CPU, for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include "common/cuda_stream.h"
#include "common/host_device.h"

#if defined(FRACTALKERN_CUDA_ON_HOST)
#include "tests/cuda_on_host.h"
#else
#include <cuda_runtime.h>
#endif

// Before a loop over registers. FRACTALKERN_UNROLL is an error to gcc where a loop has one turn.
#if defined(__CUDACC__)
#define FRACTALKERN_UNROLL_ON_DEVICE _Pragma("unroll")
#define FRACTALKERN_ROLLED_ON_DEVICE _Pragma("unroll 1")
#else
#define FRACTALKERN_UNROLL_ON_DEVICE
#define FRACTALKERN_ROLLED_ON_DEVICE
#endif

namespace fractalkern {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xFFFFFFFF;
constexpr size_t kSharedBytesWithoutAsking = 32 * 1024;  // 48 KB with what a kernel has itself

// Throws std::runtime_error with one sentence, "<op>: ...", unless `status` is success.
void check_cuda(cudaError_t status, const char* op);

// Makes `device` current for a scope.
class CudaDeviceGuard {
 public:
  CudaDeviceGuard(int device, const char* op) {
    check_cuda(cudaGetDevice(&before_), op);
    if (before_ != device) check_cuda(cudaSetDevice(device), op);
  }
  ~CudaDeviceGuard() { cudaSetDevice(before_); }
  CudaDeviceGuard(const CudaDeviceGuard&) = delete;
  CudaDeviceGuard& operator=(const CudaDeviceGuard&) = delete;

 private:
  int before_ = 0;
};

inline cudaStream_t native(const CudaStream& stream) {
  return static_cast<cudaStream_t>(stream.handle);
}

inline int multiprocessors(const CudaStream& stream) {
  int count = 1;
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, stream.device);
  return count;
}

// Bytes of dynamic shared memory that a block of `kernel` may have: all that the device gives and
// the kernel does not take itself, which for sm_90 may be a kilobyte even where it declares none.
// The kernel is allowed all of it, once for each device: a limit that follows each launch's need is
// a race between threads of the host.
inline int64_t allow_shared_memory(const void* kernel, const CudaStream& stream, const char* op) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int64_t> limits;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = limits.find({kernel, stream.device});
  if (known != limits.end()) return known->second;
  int most = 0;
  check_cuda(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, stream.device),
             op);
  cudaFuncAttributes kernels_own{};
  check_cuda(cudaFuncGetAttributes(&kernels_own, kernel), op);
  const int64_t limit = most - static_cast<int64_t>(kernels_own.sharedSizeBytes);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(limit)),
             op);
  limits.emplace(std::pair(kernel, stream.device), limit);
  return limit;
}

// The block's dynamic shared memory.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(FRACTALKERN_CUDA_ON_HOST)
  return reinterpret_cast<T*>(cuda_on_host::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

// Queues kernel(arguments...) with `shared_bytes` of dynamic shared memory. `together`: its blocks,
// one a multiprocessor at most, all run at once, so that they may wait for each other.
template <class... Parameters, class... Arguments>
void launch_as(bool together, const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
               size_t shared_bytes, const CudaStream& stream, Arguments... arguments) {
  if (shared_bytes > kSharedBytesWithoutAsking)
    allow_shared_memory(reinterpret_cast<const void*>(kernel), stream, op);
#if defined(FRACTALKERN_CUDA_ON_HOST)
  cuda_on_host::check_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes);
  const auto call = [&] { kernel(Parameters(arguments)...); };
  if (together) {
    cuda_on_host::run_together(grid.x, block.x, shared_bytes, call);
  } else {
    cuda_on_host::run(grid, block, shared_bytes, call);
  }
#else
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = native(stream);
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  config.attrs = &cooperative;
  config.numAttrs = together ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), op);
#endif
}

template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, const CudaStream& stream, Arguments... arguments) {
  launch_as(false, op, kernel, grid, block, shared_bytes, stream, arguments...);
}

template <class... Parameters, class... Arguments>
void launch_together(const char* op, void (*kernel)(Parameters...), unsigned blocks,
                     unsigned threads, size_t shared_bytes, const CudaStream& stream,
                     Arguments... arguments) {
  launch_as(true, op, kernel, blocks, threads, shared_bytes, stream, arguments...);
}

}  // namespace fractalkern
