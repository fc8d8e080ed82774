// Blocks that work on one thing together: a barrier between them, sums over a block in a fixed
// order. Only for kernels queued by launch_together(), but for teams of one block.
#pragma once

#include "common/cuda_launch.h"

namespace fractalkern {

__device__ __forceinline__ unsigned load_acquire(const unsigned* address) {
#if defined(FRACTALKERN_CUDA_ON_HOST)
  cuda_on_host::Block::get().pause();
  return *address;
#else
  unsigned value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
#endif
}

class Team {
 public:
  // `arrivals` starts at 0 and belongs to this team for the whole launch.
  __device__ Team(int rank, int size, unsigned* arrivals)
      : rank_(rank), size_(size), arrivals_(arrivals) {}

  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ int size() const { return size_; }

  // Until every thread of every block of the team is here; all see what the others wrote.
  __device__ __noinline__ void sync() {
    __syncthreads();
    if (size_ == 1) return;
    expected_ += static_cast<unsigned>(size_);
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(arrivals_, 1u);
      // The counter may wrap around.
      while (static_cast<int>(load_acquire(arrivals_) - expected_) < 0) {
      }
      __threadfence();
    }
    __syncthreads();
  }

 private:
  int rank_, size_;
  unsigned* arrivals_;
  unsigned expected_ = 0;
};

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

__device__ __forceinline__ double warp_maximum(double value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(kWholeWarp, value, step);
    value = value > other ? value : other;
  }
  return value;
}

// The sum over the block's threads, whole warps, for all of them. `slots`: a double a warp.
__device__ __noinline__ inline double block_sum(double value, double* slots) {
  const double warp = warp_sum(value);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = warp;
  __syncthreads();
  double sum = 0;
  for (unsigned i = 0; i < blockDim.x / kWarp; ++i) sum += slots[i];
  __syncthreads();
  return sum;
}

__device__ __noinline__ inline double block_maximum(double value, double* slots) {
  const double warp = warp_maximum(value);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = warp;
  __syncthreads();
  double most = slots[0];
  for (unsigned i = 1; i < blockDim.x / kWarp; ++i) most = most > slots[i] ? most : slots[i];
  __syncthreads();
  return most;
}

}  // namespace fractalkern
