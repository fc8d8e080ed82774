// A step of Adam for many runs at once, every number of the rule a number a run.
#pragma once

#include <cstdint>

#include "common/cuda_stream.h"
#include "common/host_device.h"
#include "common/parallel.h"

namespace fractalkern {

// What a row's step is made of, in the order of the op's `numbers`.
template <class T>
struct AdamNumbers {
  T factor;        // on the gradient: clipping
  T decay;         // of the parameter, added to the gradient
  T shrink;        // on the parameter, before the step
  T fresh_first;   // 1 - beta1
  T kept_second;   // beta2
  T fresh_second;  // 1 - beta2
  T size;          // lr / (1 - beta1^t)
  T root;          // 1 / sqrt(1 - beta2^t)
  T epsilon;
};
constexpr int64_t kAdamNumbers = 9;

template <class T>
FRACTALKERN_HOST_DEVICE AdamNumbers<T> adam_numbers(const double* n) {
  return {static_cast<T>(n[0]), static_cast<T>(n[1]), static_cast<T>(n[2]),
          static_cast<T>(n[3]), static_cast<T>(n[4]), static_cast<T>(n[5]),
          static_cast<T>(n[6]), static_cast<T>(n[7]), static_cast<T>(n[8])};
}

template <class T>
struct AdamStep {
  int64_t rows, columns;
  const T* gradients;  // [rows, columns], as the following
  T* parameters;
  T* first;
  T* second;
  const double* numbers;  // [rows, kAdamNumbers]
};

// g = factor g + decay p;  m += fresh_first (g - m);  v = kept_second v + fresh_second g^2;
// p = shrink p - size m / (root sqrt(v) + epsilon). A row's bits depend on the row alone, and are
// the same on CUDA and on CPUs that have a multiply-add; NaN is NaN.
void adam_step_cpu(const AdamStep<float>& step, const Parallel& parallel);
void adam_step_cpu(const AdamStep<double>& step, const Parallel& parallel);
void adam_step_cuda(const AdamStep<float>& step, const CudaStream& stream);
void adam_step_cuda(const AdamStep<double>& step, const CudaStream& stream);

}  // namespace fractalkern
