// One read of the four arrays and one write of three: memory is what it waits for. A block takes
// pieces of rows, each thread of it 16 bytes of every array at a time where rows begin at multiples
// of 16 bytes, else one parameter; neighbouring threads neighbouring ones. The arithmetic is
// adam_math.h's, divisions and roots those of IEEE 754, so that bits are the CPU's. An element is
// the business of one thread: no order of anything can matter.
#include <algorithm>
#include <cmath>

#include "adam/adam.h"
#include "common/cuda_launch.h"

#define FRACTALKERN_ISA cuda
#define FRACTALKERN_MATH FRACTALKERN_HOST_DEVICE

namespace fractalkern::cuda {

FRACTALKERN_MATH float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
FRACTALKERN_MATH double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

}  // namespace fractalkern::cuda

#include "adam/adam_math.h"

#undef FRACTALKERN_ISA
#undef FRACTALKERN_MATH

namespace fractalkern {
namespace {

constexpr const char* kOp = "adam_step";
constexpr int kThreads = 256;
constexpr int64_t kPiece = 2048;              // parameters of a row
constexpr int kBlocksPerMultiprocessor = 64;  // a dozen rounds of those that run at once

// Parameters that one thread takes together.
template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Group {
  T value[kCount];
};

template <class T, int kCount>
__global__ void __launch_bounds__(kThreads)
    adam_kernel_step(const __grid_constant__ AdamStep<T> p, int64_t pieces) {
  using Values = Group<T, kCount>;
  const int stride = static_cast<int>(blockDim.x) * kCount;
  for (int64_t i = blockIdx.x; i < p.rows * pieces; i += gridDim.x) {
    const int64_t row = i / pieces, begin = (i - row * pieces) * kPiece;
    const AdamNumbers<T> n = adam_numbers<T>(p.numbers + row * kAdamNumbers);
    const int64_t left = p.columns - begin, at = row * p.columns + begin;
    const auto count = static_cast<int>(left < kPiece ? left : kPiece);
    for (int c = static_cast<int>(threadIdx.x) * kCount; c < count; c += stride) {
      const auto gradients = *reinterpret_cast<const Values*>(p.gradients + at + c);
      auto& parameters = *reinterpret_cast<Values*>(p.parameters + at + c);
      auto& first = *reinterpret_cast<Values*>(p.first + at + c);
      auto& second = *reinterpret_cast<Values*>(p.second + at + c);
      Values new_parameters = parameters, new_first = first, new_second = second;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int k = 0; k < kCount; ++k)
        cuda::adam_update(n, gradients.value[k], new_parameters.value[k], new_first.value[k],
                          new_second.value[k]);
      parameters = new_parameters;
      first = new_first;
      second = new_second;
    }
  }
}

template <class T, int kCount>
void run(const AdamStep<T>& step, const CudaStream& stream) {
  const int64_t pieces = (step.columns + kPiece - 1) / kPiece;
  const int64_t groups = std::min(step.columns, kPiece) / kCount;
  const int64_t threads = std::min<int64_t>(kThreads, (groups + kWarp - 1) / kWarp * kWarp);
  const int64_t most = int64_t{multiprocessors(stream)} * kBlocksPerMultiprocessor;
  launch(kOp, &adam_kernel_step<T, kCount>,
         static_cast<unsigned>(std::min(step.rows * pieces, most)), static_cast<unsigned>(threads),
         0, stream, step, pieces);
}

template <class T>
void run(const AdamStep<T>& step, const CudaStream& stream) {
  if (step.rows * step.columns == 0) return;
  const CudaDeviceGuard guard(stream.device, kOp);
  constexpr int kTogether = 16 / sizeof(T);
  const auto aligned = [](const T* array) { return reinterpret_cast<uintptr_t>(array) % 16 == 0; };
  if (step.columns % kTogether == 0 && aligned(step.gradients) && aligned(step.parameters) &&
      aligned(step.first) && aligned(step.second))
    run<T, kTogether>(step, stream);
  else
    run<T, 1>(step, stream);
}

}  // namespace

void adam_step_cuda(const AdamStep<float>& step, const CudaStream& stream) { run(step, stream); }

void adam_step_cuda(const AdamStep<double>& step, const CudaStream& stream) { run(step, stream); }

}  // namespace fractalkern
