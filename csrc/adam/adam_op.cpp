// Op schema and registrations of adam_step.
#include <initializer_list>

#include "adam/adam.h"
#include "common/torch_glue.h"

namespace fractalkern {
namespace {

constexpr const char* kOp = "adam_step";

template <class T>
void step_rows(const Tensor& parameters, const Tensor& gradients, const Tensor& first,
               const Tensor& second, const Tensor& numbers) {
  const AdamStep<T> step{parameters.size(0),
                         parameters.size(1),
                         static_cast<const T*>(gradients.data_ptr()),
                         static_cast<T*>(parameters.data_ptr()),
                         static_cast<T*>(first.data_ptr()),
                         static_cast<T*>(second.data_ptr()),
                         static_cast<const double*>(numbers.data_ptr())};
  if (parameters.is_cuda()) {
    const CudaStream stream = cuda_stream_of(parameters, kOp);
    if constexpr (kCudaBuilt) adam_step_cuda(step, stream);
  } else {
    adam_step_cpu(step, torch_parallel());
  }
}

void adam_step(Tensor parameters, const Tensor& gradients, Tensor first, Tensor second,
               const Tensor& numbers) {
  const auto type = parameters.scalar_type();
  STD_TORCH_CHECK(
      parameters.dim() == 2 && (type == ScalarType::Float || type == ScalarType::Double), kOp,
      ": parameters must be float32 or float64 of shape [R, P]");
  using Tensors = std::initializer_list<const Tensor*>;
  for (const Tensor* other : Tensors{&gradients, &first, &second})
    STD_TORCH_CHECK(
        other->scalar_type() == type && other->dim() == 2 && other->size(0) == parameters.size(0) &&
            other->size(1) == parameters.size(1),
        kOp, ": gradients, first and second must be of the shape and dtype of parameters");
  for (const Tensor* one : Tensors{&parameters, &gradients, &first, &second, &numbers}) {
    STD_TORCH_CHECK(one->is_contiguous(), kOp, ": all tensors must be contiguous");
    STD_TORCH_CHECK(one->device() == parameters.device(), kOp,
                    ": all tensors must be on the device of parameters");
  }
  STD_TORCH_CHECK(numbers.scalar_type() == ScalarType::Double && numbers.dim() == 2 &&
                      numbers.size(0) == parameters.size(0) && numbers.size(1) == kAdamNumbers,
                  kOp, ": numbers must be float64 of shape [R, ", kAdamNumbers, "]");
  if (type == ScalarType::Float)
    step_rows<float>(parameters, gradients, first, second, numbers);
  else
    step_rows<double>(parameters, gradients, first, second, numbers);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def(
      "adam_step(Tensor(a!) parameters, Tensor gradients, Tensor(b!) first, Tensor(c!) second, "
      "Tensor numbers) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("adam_step", TORCH_BOX(&adam_step));
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  library.impl("adam_step", TORCH_BOX(&adam_step));
}

}  // namespace fractalkern
