#include "common/cuda_info.h"

#if !defined(FRACTALKERN_CUDA_ARCHITECTURES)
namespace fractalkern {

std::vector<std::string> compiled_cuda_architectures() { return {}; }

std::string cuda_runtime_info() { return "built without CUDA"; }

}  // namespace fractalkern
#endif
