// Op schema and registrations of dropout_mask.
#include <vector>

#include "common/torch_glue.h"
#include "dropout_mask/dropout_mask.h"

namespace fractalkern {
namespace {

Tensor dropout_mask(const Tensor& keys, int64_t count, int64_t call, int64_t step, int64_t stream,
                    int64_t threshold, double scale) {
  const char* const op = "dropout_mask";
  constexpr int64_t kWord = int64_t{1} << 32;
  STD_TORCH_CHECK(
      keys.scalar_type() == ScalarType::Long && keys.dim() >= 1 && keys.size(keys.dim() - 1) == 2,
      op, ": keys must be int64 of shape [..., 2]");
  STD_TORCH_CHECK(count >= 0 && count <= 4 * kWord, op, ": count must be from 0 to 2^34, got ",
                  count);
  STD_TORCH_CHECK(threshold >= 0 && threshold <= kWord, op,
                  ": threshold must be from 0 to 2^32, got ", threshold);
  const Tensor rows = torch::stable::contiguous(keys);
  std::vector<int64_t> shape(rows.sizes().begin(), rows.sizes().end());
  shape.back() = count;
  Tensor values = torch::stable::new_empty(rows, shape, ScalarType::Float);
  DropoutMask mask{};
  mask.keys = static_cast<const int64_t*>(rows.data_ptr());
  mask.rows = rows.numel() / 2;
  mask.count = count;
  mask.counter[0] = static_cast<uint32_t>(call);
  mask.counter[1] = static_cast<uint32_t>(step);
  mask.counter[2] = static_cast<uint32_t>(stream);
  mask.threshold = static_cast<uint64_t>(threshold);
  mask.scale = static_cast<float>(scale);
  mask.values = static_cast<float*>(values.data_ptr());
  if (values.is_cuda()) {
    const CudaStream cuda = cuda_stream_of(values, op);
    if constexpr (kCudaBuilt) dropout_mask_cuda(mask, cuda);
  } else {
    dropout_mask_cpu(mask, torch_parallel());
  }
  return values;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def(
      "dropout_mask(Tensor keys, int count, int call, int step, int stream, int threshold, "
      "float scale) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("dropout_mask", TORCH_BOX(&dropout_mask));
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  library.impl("dropout_mask", TORCH_BOX(&dropout_mask));
}

}  // namespace fractalkern
