// What every *_op.cpp shares: argument checks and torch's thread pool behind `Parallel`.
// Only *_op.cpp files include this header; kernels never see torch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

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

}  // namespace fractalkern
