// CUDA kernels of box_count: box_count_pyramid_cuda.cu for powers of two from one origin,
// box_count_windows_cuda.cu for anything else.
#include "box_count/box_count_cuda.h"

namespace fractalkern {

void box_count_cuda(const BoxCount& problem, const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, "box_count");
  const int64_t row =
      box_count_grids(problem.dims, problem.sizes, problem.size_count, problem.offsets);
  if (problem.batch * row == 0) return;
  check_cuda(
      cudaMemsetAsync(problem.counts, 0, static_cast<size_t>(problem.batch * row) * sizeof(int64_t),
                      native(stream)),
      "box_count");
  for (int k = 0; k < problem.dims; ++k)
    if (problem.shape[k] == 0) return;
  if (box_count_is_pyramid(problem)) {
    count_powers_of_two(problem, stream);
  } else {
    count_any_sizes(problem, stream);
  }
}

}  // namespace fractalkern
