#include <cuda_runtime.h>

#include <sstream>

#include "common/cuda_info.h"

namespace fractalkern {

std::vector<std::string> compiled_cuda_architectures() {
  std::istringstream stream(FRACTALKERN_CUDA_ARCHITECTURES);
  std::vector<std::string> names;
  for (std::string name; std::getline(stream, name, ',');) names.push_back(name);
  return names;
}

std::string cuda_runtime_info() {
  int runtime = 0, driver = 0, devices = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const cudaError_t status = cudaGetDeviceCount(&devices);
  std::ostringstream text;
  text << "runtime " << runtime / 1000 << '.' << runtime % 1000 / 10;
  if (driver == 0) {
    text << ", no driver";
  } else {
    text << ", driver for CUDA " << driver / 1000 << '.' << driver % 1000 / 10;
  }
  if (status != cudaSuccess) {
    text << ", no device (" << cudaGetErrorString(status) << ')';
    cudaGetLastError();
    return text.str();
  }
  for (int i = 0; i < devices; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) == cudaSuccess)
      text << ", device " << i << ": " << properties.name << " (sm_" << properties.major
           << properties.minor << ')';
  }
  return text.str();
}

}  // namespace fractalkern
