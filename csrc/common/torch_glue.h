// What every *_op.cpp shares: torch's thread pool behind `Parallel`, torch's stream and memory
// behind `CudaStream`. Only *_op.cpp files include this header; kernels never see torch.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <memory>
#include <vector>

#include "common/cuda_stream.h"
#include "common/parallel.h"

namespace fractalkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch's intra-op pool: obeys torch.set_num_threads and is shared with every other torch op.
inline Parallel torch_parallel() {
  return Parallel(torch::stable::get_num_threads(),
                  [](int64_t workers, Parallel::Body body, const void* context) {
                    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) body(context);
                    });
                  });
}

// torch's current stream on the device of a CUDA tensor, for one call of an op; scratch memory
// comes from torch's caching allocator and goes back to it with the last copy of the stream.
//
// The stable ABI has no name for that stream that a CPU build of torch also has, so it is looked up
// in the library that every CUDA build has loaded by the time a CUDA tensor exists.
inline CudaStream cuda_stream_of(const Tensor& tensor, const char* op) {
  STD_TORCH_CHECK(kCudaBuilt, op,
                  ": this build of fractalkern has no CUDA kernels; reinstall it with "
                  "FRACTALKERN_CUDA=1 where nvcc is on the PATH");
  using GetStream = int (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<GetStream>(
        library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  CudaStream stream{static_cast<int>(tensor.get_device_index()), nullptr, {}};
  STD_TORCH_CHECK(get_stream != nullptr && get_stream(stream.device, &stream.handle) == 0, op,
                  ": torch's current CUDA stream was not found in libtorch_cuda.so; fractalkern "
                  "needs a CUDA build of torch 2.11 or later");
  auto kept = std::make_shared<std::vector<Tensor>>();
  stream.scratch = [kept, tensor](int64_t bytes) {
    kept->push_back(torch::stable::new_empty(tensor, {bytes}, ScalarType::Byte));
    return kept->back().data_ptr();
  };
  return stream;
}

}  // namespace fractalkern
