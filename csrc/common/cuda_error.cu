#include <sstream>
#include <stdexcept>

#include "common/cuda_info.h"
#include "common/cuda_launch.h"

namespace fractalkern {
namespace {

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaGetDeviceProperties(&properties, device) != cudaSuccess)
    return "this device";
  std::ostringstream text;
  text << properties.name << " (sm_" << properties.major << properties.minor << ')';
  return text.str();
}

std::string architectures() {
  std::string text;
  for (const auto& name : compiled_cuda_architectures()) text += (text.empty() ? "" : " ") + name;
  return text;
}

}  // namespace

void check_cuda(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a launch error must not surface again in another's call
  std::ostringstream text;
  text << op << ": ";
  switch (status) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:  // the same, asked for by an attribute
      text << "this build has kernels for " << architectures() << " and none for " << device_name()
           << "; rebuild with FRACTALKERN_CUDA_ARCHS set to the number of that device";
      break;
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      text << "the NVIDIA driver is older than this build's CUDA " << CUDART_VERSION / 1000 << '.'
           << CUDART_VERSION % 1000 / 10
           << "; update the driver, or rebuild with the toolkit that fits it";
      break;
    default:
      text << "CUDA reports " << cudaGetErrorName(status) << " (" << cudaGetErrorString(status)
           << ')';
  }
  throw std::runtime_error(text.str());
}

}  // namespace fractalkern
