// Copies from global into shared memory that go on while their thread does something else.
#pragma once

#include "common/cuda_launch.h"

namespace fractalkern {

// kBytes are 4, 8 or 16, and both addresses multiples of them.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(FRACTALKERN_CUDA_ON_HOST)
  cuda_on_host::copy_async(shared, global, kBytes);
#else
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {  // past the first-level cache, which could only lose by it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(kBytes)
                 : "memory");
  }
#endif
}

// Ends a group of this thread's copies.
__device__ __forceinline__ void commit_async_copies() {
#if defined(FRACTALKERN_CUDA_ON_HOST)
  cuda_on_host::commit_async_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until all of this thread's groups but the last kLeft have arrived; other threads see them after
// the next barrier.
template <int kLeft>
__device__ __forceinline__ void await_async_copies() {
#if defined(FRACTALKERN_CUDA_ON_HOST)
  cuda_on_host::await_async_copies(kLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

}  // namespace fractalkern
