// The CUDA half as it was built and as it finds the machine. Without nvcc at build time
// cuda_info.cpp answers for it, with it cuda_info.cu does.
#pragma once

#include <string>
#include <vector>

namespace fractalkern {

// For example {"sm_80", "sm_90", "compute_90"}; empty for a CPU-only build.
std::vector<std::string> compiled_cuda_architectures();

// One sentence on the runtime, the driver and the devices found.
std::string cuda_runtime_info();

}  // namespace fractalkern
