// Op schema and registrations of box_count.
#include <vector>

#include "box_count/box_count.h"
#include "common/torch_glue.h"

namespace fractalkern {
namespace {

Tensor box_count(const Tensor& mask, int64_t spatial_dims, const std::vector<int64_t>& sizes,
                 int64_t offsets, bool mixed, bool crop) {
  const ScalarType dtype = mask.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Bool || dtype == ScalarType::Byte || dtype == ScalarType::Char,
      "box_count: mask must be bool, uint8 or int8");
  STD_TORCH_CHECK(spatial_dims >= 1 && spatial_dims <= kBoxCountMaxDims,
                  "box_count: spatial_dims must be 1 to ", kBoxCountMaxDims, ", got ",
                  spatial_dims);
  STD_TORCH_CHECK(mask.dim() >= spatial_dims, "box_count: mask must have at least ", spatial_dims,
                  " dimensions, got ", mask.dim());
  STD_TORCH_CHECK(offsets >= 0, "box_count: offsets must be at least 0, got ", offsets);
  // Positions up to an origin and a size past the mask's edge stay far from overflow.
  constexpr int64_t kLargestSize = int64_t{1} << 61;
  for (const int64_t size : sizes)
    STD_TORCH_CHECK(size >= 1 && size <= kLargestSize, "box_count: sizes must be 1 to ",
                    kLargestSize, ", got ", size);

  const Tensor contiguous = torch::stable::contiguous(mask);
  const int dims = static_cast<int>(spatial_dims);
  const int64_t leading = contiguous.dim() - spatial_dims;
  BoxCount problem{};
  problem.mask = static_cast<const uint8_t*>(contiguous.data_ptr());
  problem.batch = 1;
  for (int64_t i = 0; i < leading; ++i) problem.batch *= contiguous.size(i);
  problem.dims = dims;
  for (int k = 0; k < dims; ++k) problem.shape[k] = contiguous.size(leading + k);
  problem.sizes = sizes.data();
  problem.size_count = static_cast<int64_t>(sizes.size());
  problem.offsets = offsets;
  problem.mixed = mixed;
  problem.crop = crop;
  const int64_t grids = box_count_grids(dims, problem.sizes, problem.size_count, offsets);
  STD_TORCH_CHECK(grids >= 0, "box_count: more grids than an int64 can count");

  Tensor counts = torch::stable::new_empty(contiguous, {problem.batch, grids}, ScalarType::Long);
  problem.counts = static_cast<int64_t*>(counts.data_ptr());
  if (mask.is_cuda()) {
    const CudaStream stream = cuda_stream_of(mask, "box_count");
    if constexpr (kCudaBuilt) box_count_cuda(problem, stream);
  } else {
    box_count_cpu(problem, torch_parallel());
  }
  return counts;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def(
      "box_count(Tensor mask, int spatial_dims, int[] sizes, int offsets, bool mixed, bool crop) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("box_count", TORCH_BOX(&box_count));
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  library.impl("box_count", TORCH_BOX(&box_count));
}

}  // namespace fractalkern
