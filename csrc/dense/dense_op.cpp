// Op schemas and CPU registration of dense_outputs and dense_gradients.
#include <vector>

#include "common/torch_glue.h"
#include "dense/dense.h"

namespace fractalkern {
namespace {

// `layout`: for each layer its inputs, outputs, and the first columns of its weight and bias.
DenseNetworks checked_networks(const char* op, const Tensor& x, const Tensor& parameters,
                               const std::vector<int64_t>& layout) {
  STD_TORCH_CHECK(parameters.dim() == 2 && parameters.scalar_type() == ScalarType::Float, op,
                  ": parameters must be float32 of shape [R, P]");
  STD_TORCH_CHECK(parameters.is_contiguous(), op, ": parameters must be contiguous");
  STD_TORCH_CHECK(!layout.empty() && layout.size() % 4 == 0, op,
                  ": layout must hold four numbers a layer");
  DenseNetworks networks{};
  networks.networks = parameters.size(0);
  networks.row_stride = parameters.size(1);
  networks.parameters = static_cast<const float*>(parameters.data_ptr());
  const int64_t columns = parameters.size(1);
  for (size_t i = 0; i < layout.size(); i += 4) {
    const DenseLayer layer{layout[i], layout[i + 1], layout[i + 2], layout[i + 3]};
    STD_TORCH_CHECK(layer.inputs >= 1 && layer.outputs >= 1 && layer.inputs < (1 << 20) &&
                        layer.outputs < (1 << 20),
                    op, ": layout must have widths of 1 to 2^20");
    STD_TORCH_CHECK(networks.layers.empty() || networks.layers.back().outputs == layer.inputs, op,
                    ": layout must have layers that fit together");
    STD_TORCH_CHECK(layer.weight >= 0 && layer.weight + layer.inputs * layer.outputs <= columns &&
                        layer.bias >= 0 && layer.bias + layer.outputs <= columns,
                    op, ": layout must lie within the ", columns, " columns of parameters");
    networks.layers.push_back(layer);
  }
  STD_TORCH_CHECK(
      x.scalar_type() == ScalarType::Float && (x.dim() == 2 || x.dim() == 3) && x.is_contiguous(),
      op, ": x must be contiguous float32 of shape [N, d] or [R, N, d]");
  STD_TORCH_CHECK(x.dim() == 2 || x.size(0) == networks.networks, op,
                  ": x must have one set of points for each of the ", networks.networks,
                  " networks, got ", x.size(0));
  networks.x = static_cast<const float*>(x.data_ptr());
  networks.points = x.size(x.dim() - 2);
  STD_TORCH_CHECK(networks.points >= 1, op, ": x must hold at least one point");
  STD_TORCH_CHECK(x.size(x.dim() - 1) == networks.layers.front().inputs, op, ": x must have ",
                  networks.layers.front().inputs, " inputs a point, got ", x.size(x.dim() - 1));
  networks.x_stride = x.dim() == 2 ? 0 : networks.points * networks.layers.front().inputs;
  return networks;
}

Tensor dense_outputs(const Tensor& x, const Tensor& parameters,
                     const std::vector<int64_t>& layout) {
  const DenseNetworks networks = checked_networks("dense_outputs", x, parameters, layout);
  Tensor outputs = torch::stable::new_empty(
      parameters, {networks.networks, networks.points, networks.layers.back().outputs});
  dense_outputs_cpu(networks, static_cast<float*>(outputs.data_ptr()), torch_parallel());
  return outputs;
}

Tensor dense_gradients(const Tensor& x, const Tensor& y, const Tensor& parameters, Tensor gradients,
                       const std::vector<int64_t>& layout, int64_t loss) {
  const char* const op = "dense_gradients";
  const DenseNetworks networks = checked_networks(op, x, parameters, layout);
  STD_TORCH_CHECK(gradients.dim() == 2 && gradients.scalar_type() == ScalarType::Float &&
                      gradients.is_contiguous() && gradients.size(0) == networks.networks &&
                      gradients.size(1) == networks.row_stride,
                  op, ": gradients must be contiguous and of the shape of parameters");
  STD_TORCH_CHECK(loss >= 0 && loss <= 2, op, ": loss must be 0, 1 or 2, got ", loss);
  DenseTargets targets{};
  targets.loss = static_cast<DenseLoss>(loss);
  const bool labels = targets.loss == DenseLoss::kCrossEntropy;
  const int64_t outputs = networks.layers.back().outputs;
  const int64_t size = networks.points * (labels ? 1 : outputs);
  const bool shared = y.numel() == size && (networks.x_stride == 0 || networks.networks == 1);
  STD_TORCH_CHECK(
      y.scalar_type() == (labels ? ScalarType::Long : ScalarType::Float) && y.is_contiguous(), op,
      ": y must be contiguous, int64 for cross entropy and else float32");
  STD_TORCH_CHECK(shared || y.numel() == size * networks.networks, op,
                  ": y must have one target for each point");
  targets.stride = shared ? 0 : size;
  if (labels) {
    targets.labels = static_cast<const int64_t*>(y.data_ptr());
    for (int64_t i = 0; i < y.numel(); ++i)
      STD_TORCH_CHECK(targets.labels[i] >= 0 && targets.labels[i] < outputs, op,
                      ": y must hold labels from 0 to ", outputs - 1, ", got ", targets.labels[i]);
  } else {
    targets.values = static_cast<const float*>(y.data_ptr());
  }
  Tensor losses = torch::stable::new_empty(parameters, {networks.networks});
  dense_gradients_cpu(networks, targets, static_cast<float*>(losses.data_ptr()),
                      static_cast<float*>(gradients.data_ptr()), torch_parallel());
  return losses;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def("dense_outputs(Tensor x, Tensor parameters, int[] layout) -> Tensor");
  library.def(
      "dense_gradients(Tensor x, Tensor y, Tensor parameters, Tensor(a!) gradients, int[] layout, "
      "int loss) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("dense_outputs", TORCH_BOX(&dense_outputs));
  library.impl("dense_gradients", TORCH_BOX(&dense_gradients));
}

}  // namespace fractalkern
