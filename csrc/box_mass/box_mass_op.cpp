// Op schemas and registrations of box_mass and gliding_mass.
#include <algorithm>
#include <vector>

#include "box_mass/box_mass.h"
#include "common/torch_glue.h"

namespace fractalkern {
namespace {

Weights checked_weights(const char* op, const Tensor& weights, int64_t spatial_dims) {
  STD_TORCH_CHECK(spatial_dims >= 1 && spatial_dims <= kBoxMassMaxDims, op,
                  ": spatial_dims must be 1 to ", kBoxMassMaxDims, ", got ", spatial_dims);
  STD_TORCH_CHECK(weights.dim() >= spatial_dims, op, ": weights must have at least ", spatial_dims,
                  " dimensions, got ", weights.dim());
  Weights result{};
  const ScalarType dtype = weights.scalar_type();
  result.type = dtype == ScalarType::Double ? WeightType::kDouble
                : dtype == ScalarType::Long ? WeightType::kInt64
                                            : WeightType::kByte;
  STD_TORCH_CHECK(
      result.type != WeightType::kByte || dtype == ScalarType::Bool || dtype == ScalarType::Byte,
      op, ": weights must be bool, uint8, int64 or float64");
  result.data = weights.data_ptr();
  result.dims = static_cast<int>(spatial_dims);
  result.batch = 1;
  const int64_t leading = weights.dim() - spatial_dims;
  for (int64_t i = 0; i < leading; ++i) result.batch *= weights.size(i);
  for (int k = 0; k < result.dims; ++k) {
    result.shape[k] = weights.size(leading + k);
    STD_TORCH_CHECK(result.shape[k] > 0, op, ": weights must have no spatial side of 0");
  }
  return result;
}

int64_t smallest_side(const Weights& weights) {
  return *std::min_element(weights.shape, weights.shape + weights.dims);
}

void check_sizes(const char* op, const std::vector<int64_t>& sizes, int64_t side) {
  for (const int64_t size : sizes)
    STD_TORCH_CHECK(size >= 1 && size <= side, op, ": sizes must be 1 to ", side, ", got ", size);
}

Tensor box_mass(const Tensor& weights, int64_t spatial_dims, const std::vector<int64_t>& sizes,
                int64_t offsets) {
  const Tensor contiguous = torch::stable::contiguous(weights);
  BoxMass problem{};
  problem.weights = checked_weights("box_mass", contiguous, spatial_dims);
  check_sizes("box_mass", sizes, smallest_side(problem.weights));
  STD_TORCH_CHECK(offsets >= 0, "box_mass: offsets must be at least 0, got ", offsets);
  problem.sizes = sizes.data();
  problem.size_count = static_cast<int64_t>(sizes.size());
  problem.offsets = offsets;
  const int64_t boxes = box_mass_boxes(problem.weights.dims, problem.weights.shape, problem.sizes,
                                       problem.size_count, offsets);
  STD_TORCH_CHECK(boxes >= 0, "box_mass: more boxes than an int64 can count");

  const bool integers = problem.weights.type != WeightType::kDouble;
  Tensor masses = torch::stable::new_empty(contiguous, {problem.weights.batch, boxes},
                                           integers ? ScalarType::Long : ScalarType::Double);
  problem.masses = masses.data_ptr();
  if (weights.is_cuda()) {
    const CudaStream stream = cuda_stream_of(weights, "box_mass");
    if constexpr (kCudaBuilt) box_mass_cuda(problem, stream);
  } else {
    box_mass_cpu(problem, torch_parallel());
  }
  return masses;
}

Tensor gliding_mass(const Tensor& weights, int64_t spatial_dims,
                    const std::vector<int64_t>& sizes) {
  const Tensor contiguous = torch::stable::contiguous(weights);
  GlidingMass problem{};
  problem.weights = checked_weights("gliding_mass", contiguous, spatial_dims);
  STD_TORCH_CHECK(problem.weights.type != WeightType::kDouble,
                  "gliding_mass: weights must be bool, uint8 or int64");
  check_sizes("gliding_mass", sizes, smallest_side(problem.weights));
  problem.sizes = sizes.data();
  problem.size_count = static_cast<int64_t>(sizes.size());
  Tensor moments = torch::stable::new_empty(
      contiguous, {problem.weights.batch, problem.size_count, 4}, ScalarType::Long);
  problem.moments = static_cast<int64_t*>(moments.data_ptr());
  if (weights.is_cuda()) {
    const CudaStream stream = cuda_stream_of(weights, "gliding_mass");
    if constexpr (kCudaBuilt) gliding_mass_cuda(problem, stream);
  } else {
    gliding_mass_cpu(problem, torch_parallel());
  }
  return moments;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def("box_mass(Tensor weights, int spatial_dims, int[] sizes, int offsets) -> Tensor");
  library.def("gliding_mass(Tensor weights, int spatial_dims, int[] sizes) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("box_mass", TORCH_BOX(&box_mass));
  library.impl("gliding_mass", TORCH_BOX(&gliding_mass));
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  library.impl("box_mass", TORCH_BOX(&box_mass));
  library.impl("gliding_mass", TORCH_BOX(&gliding_mass));
}

}  // namespace fractalkern
