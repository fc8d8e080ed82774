// The Python module `fractalkern._C`: what was built, and which instruction set runs.
// Importing it registers the ops: each csrc/<kernel>/<kernel>_op.cpp does so in a static
// initialiser, and tensors go through torch's dispatcher, never through this file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/cuda_info.h"
#include "common/instruction_set.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = FRACTALKERN_VERSION;
  info["compiler"] = FRACTALKERN_COMPILER;
  info["instruction_sets"] = fractalkern::compiled_instruction_sets();
  info["supported_instruction_sets"] = fractalkern::supported_instruction_sets();
  info["instruction_set"] =
      fractalkern::compiled_instruction_sets()[fractalkern::active_instruction_set()];
  info["cuda_architectures"] = fractalkern::compiled_cuda_architectures();
  info["torch_built_with"] = FRACTALKERN_TORCH_VERSION;
  info["torch_target"] = FRACTALKERN_TORCH_TARGET;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled half of fractalkern; importing it registers torch.ops.fractalkern.*";
  module.def("build_info", &build_info);
  module.def("set_instruction_set", &fractalkern::set_instruction_set, py::arg("name"));
  module.def("cuda_runtime_info", &fractalkern::cuda_runtime_info);
}
