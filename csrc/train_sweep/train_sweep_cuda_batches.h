// Minibatches on a GPU. Their rows cannot be looked at before the launch, so training reads a copy
// in which row 0 stands for rows that x lacks; if there is one no result means anything, and all
// become NaN.
#pragma once

#include "common/cuda_launch.h"
#include "train_sweep/train_sweep.h"

namespace fractalkern::cuda {

__global__ void copy_rows(const int64_t* from, int64_t count, int64_t rows, int64_t* to,
                          int* outside) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += threads) {
    const bool inside = from[i] >= 0 && from[i] < rows;
    to[i] = inside ? from[i] : 0;
    if (!inside) *outside = 1;
  }
}

template <class T>
__global__ void void_results(const __grid_constant__ TrainSweepArgs<T> args, const int* outside) {
  if (*outside == 0) return;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; p < args.networks;
       p += threads) {
    args.value[p] = args.final_loss[p] = args.first_loss[p] = static_cast<T>(NAN);
    args.converged[p] = false;
    if (args.history != nullptr)
      for (int64_t t = 0; t < args.steps; ++t)
        args.history[t * args.networks + p] = static_cast<T>(NAN);
  }
}

// Calls train(args) with rows that x has, and sees to the results.
template <class T, class Train>
void with_rows_of_x(const char* op, TrainSweepArgs<T> args, const CudaStream& stream,
                    const Train& train) {
  if (args.batches == nullptr) return train(args);
  const int64_t count = args.steps * args.batch_rows;
  auto* const rows = static_cast<int64_t*>(stream.scratch(8 * count));
  auto* const outside = static_cast<int*>(stream.scratch(sizeof(int)));
  check_cuda(cudaMemsetAsync(outside, 0, sizeof(int), native(stream)), op);
  launch(op, &copy_rows, 32, 256, 0, stream, args.batches, count, args.rows, rows, outside);
  args.batches = rows;
  train(args);
  launch(op, &void_results<T>, 32, 256, 0, stream, args, outside);
}

}  // namespace fractalkern::cuda
