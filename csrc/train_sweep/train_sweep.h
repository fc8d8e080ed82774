// P two-layer networks trained at once by plain gradient descent; see
// fractalkern/ops/train_sweep.py for the model and the meaning of every result.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/cuda_stream.h"
#include "common/parallel.h"

namespace fractalkern {

enum class Activation { kTanh, kRelu, kIdentity };

// All arrays are contiguous and row-major. T is double or float.
template <class T>
struct TrainSweepArgs {
  int64_t rows;        // D
  int64_t inputs;      // n
  int64_t hidden;      // h
  int64_t outputs;     // k
  int64_t networks;    // P
  int64_t steps;       // >= 1
  int64_t batch_rows;  // b, used with `batches`

  const T* x;              // [D, n]
  const T* y;              // [D, k]
  const T* w0;             // [n, h]
  const T* w1;             // [h, k]
  const T* lr0;            // [P]
  const T* lr1;            // [P]
  const int64_t* batches;  // [steps, b], rows in [0, D), or nullptr
  const T* offset;         // [P] or nullptr
  const T* probe;          // [n] or nullptr; k = 1 with it

  Activation activation;
  bool offset_every_step;
  bool published;   // judge convergence by the tail average alone
  bool early_exit;  // false: compute every step (the results are the same)

  T* value;            // [P]
  bool* converged;     // [P]
  T* final_loss;       // [P]
  int64_t* steps_run;  // [P]
  T* first_loss;       // [P]
  T* history;          // [steps, P] or nullptr
};

// tanh(sqrt(2) z) and sqrt(2) relu(z) = relu(sqrt(2) z): one factor on x serves both.
template <class T>
T input_scale(const TrainSweepArgs<T>& args) {
  const double gain = args.activation == Activation::kIdentity ? 1.0 : std::sqrt(2.0);
  return static_cast<T>(gain / std::sqrt(static_cast<double>(args.inputs)));
}

void train_sweep_cpu(const TrainSweepArgs<double>& args, const Parallel& parallel);
void train_sweep_cpu(const TrainSweepArgs<float>& args, const Parallel& parallel);

// What does a network's arithmetic on a GPU. Results differ between these by rounding.
enum class SweepUnit {
  kFastest,
  kMultiplyAdd,  // one output, up to 32 inputs and hidden units
  kTensorCore,   // the same in float64
  kAnyShape,
};

// All arrays in device memory.
void train_sweep_cuda(const TrainSweepArgs<double>& args, const CudaStream& stream,
                      SweepUnit unit = SweepUnit::kFastest);
void train_sweep_cuda(const TrainSweepArgs<float>& args, const CudaStream& stream,
                      SweepUnit unit = SweepUnit::kFastest);

// The kernel's own tanh, for tests: out[i] = tanh(in[i]).
void vector_tanh_cpu(const double* in, double* out, int64_t size);
void vector_tanh_cpu(const float* in, float* out, int64_t size);
void vector_tanh_cuda(const double* in, double* out, int64_t size, const CudaStream& stream);
void vector_tanh_cuda(const float* in, float* out, int64_t size, const CudaStream& stream);

}  // namespace fractalkern
