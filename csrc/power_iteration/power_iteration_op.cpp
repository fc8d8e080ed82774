// torch.ops.fractalkern.power_iteration and its backward: schemas, guards and the CPU glue.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "common/torch_glue.h"
#include "power_iteration/power_iteration.h"

namespace fractalkern {
namespace {

bool is_float(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

// The tensor in float or double with a contiguous last axis; half precision is widened.
Tensor readable(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  if (dtype == ScalarType::Half || dtype == ScalarType::BFloat16)
    return torch::stable::contiguous(torch::stable::to(tensor, ScalarType::Float));
  if (tensor.dim() == 2 && tensor.stride(1) == 1 && tensor.stride(0) >= tensor.size(1))
    return tensor;
  return torch::stable::contiguous(tensor);
}

int64_t stack_size(const Tensor& tensor) {
  int64_t count = 1;
  for (int64_t axis = 0; axis < tensor.dim() - 2; ++axis) count *= tensor.size(axis);
  return count;
}

// Into a tensor of float or double.
void copy_out(const std::vector<double>& from, Tensor& to) {
  if (to.scalar_type() == ScalarType::Double) {
    std::copy(from.begin(), from.end(), static_cast<double*>(to.data_ptr()));
  } else {
    auto* const out = static_cast<float*>(to.data_ptr());
    for (size_t i = 0; i < from.size(); ++i) out[i] = static_cast<float>(from[i]);
  }
}

// `value` rounded to the dtype of `to` so that a lower bound stays one.
void put_bound(double value, bool lower, Tensor& to, int64_t at) {
  if (to.scalar_type() == ScalarType::Double) {
    static_cast<double*>(to.data_ptr())[at] = value;
    return;
  }
  auto rounded = static_cast<float>(value);
  if (lower && rounded > value) rounded = std::nextafter(rounded, 0.0F);
  if (!lower && rounded < value)
    rounded = std::nextafter(rounded, std::numeric_limits<float>::infinity());
  static_cast<float*>(to.data_ptr())[at] = rounded;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> power_iteration(
    const std::vector<Tensor>& weights, const std::optional<Tensor>& start, int64_t iters,
    double tol, bool lanczos, double delta, int64_t seed) {
  STD_TORCH_CHECK(!weights.empty(), "power_iteration: weights must hold at least one tensor");
  STD_TORCH_CHECK(iters >= 1, "power_iteration: iters must be at least 1, got ", iters);
  STD_TORCH_CHECK(delta > 0 && delta < 1, "power_iteration: delta must lie in (0, 1)");
  std::vector<Tensor> read;
  read.reserve(weights.size());
  bool wide = false;
  int64_t count = 0, left = 0, right = 0;
  for (const Tensor& weight : weights) {
    STD_TORCH_CHECK(weight.dim() >= 2, "power_iteration: weights must have at least two axes");
    STD_TORCH_CHECK(is_float(weight.scalar_type()),
                    "power_iteration: weights must be float16, bfloat16, float32 or float64");
    wide = wide || weight.scalar_type() == ScalarType::Double;
    read.push_back(readable(weight));
    const int64_t stack = stack_size(weight);
    count += stack;
    left += stack * weight.size(weight.dim() - 2);
    right += stack * weight.size(weight.dim() - 1);
  }
  std::optional<Tensor> first;
  if (start.has_value()) {
    STD_TORCH_CHECK(start->dim() == 1 && start->size(0) == right,
                    "power_iteration: start must have shape [", right, "]");
    first = torch::stable::contiguous(torch::stable::to(*start, ScalarType::Double));
  }

  std::vector<double> u(static_cast<size_t>(left)), v(static_cast<size_t>(right));
  std::vector<SpectralMatrix> matrices;
  matrices.reserve(static_cast<size_t>(count));
  int64_t u_at = 0, v_at = 0;
  for (const Tensor& tensor : read) {
    const int64_t rows = tensor.size(tensor.dim() - 2), columns = tensor.size(tensor.dim() - 1);
    const int64_t stack = stack_size(tensor);
    const bool is_double = tensor.scalar_type() == ScalarType::Double;
    const auto* data = static_cast<const char*>(tensor.data_ptr());
    for (int64_t i = 0; i < stack; ++i) {
      SpectralMatrix matrix{};
      matrix.data = data + i * rows * columns * (is_double ? 8 : 4);
      matrix.wide = is_double;
      matrix.rows = rows;
      matrix.columns = columns;
      matrix.row_stride = tensor.dim() == 2 ? tensor.stride(0) : columns;
      matrix.start =
          first.has_value() ? static_cast<const double*>(first->data_ptr()) + v_at : nullptr;
      matrix.u = u.data() + u_at;
      matrix.v = v.data() + v_at;
      matrices.push_back(matrix);
      u_at += rows;
      v_at += columns;
    }
  }
  if (first.has_value()) {
    for (size_t i = 0; i < matrices.size(); ++i) {
      const SpectralMatrix& matrix = matrices[i];
      double largest = 0;
      for (int64_t j = 0; j < matrix.columns && std::isfinite(largest); ++j)
        largest = std::isfinite(matrix.start[j]) ? std::max(largest, std::abs(matrix.start[j]))
                                                 : matrix.start[j];
      STD_TORCH_CHECK(matrix.columns == 0 || (std::isfinite(largest) && largest > 0),
                      "power_iteration: start must be finite and not zero, but that of matrix ", i,
                      " is not");
    }
  }
  power_iteration_cpu(
      {matrices.data(), count, iters, tol, lanczos, delta, static_cast<uint64_t>(seed)},
      torch_parallel());

  const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
  Tensor sigma = torch::stable::new_empty(read[0], {count}, dtype);
  Tensor u_out = torch::stable::new_empty(read[0], {left}, dtype);
  Tensor v_out = torch::stable::new_empty(read[0], {right}, dtype);
  Tensor bounds = torch::stable::new_empty(read[0], {3, count}, dtype);
  Tensor codes = torch::stable::new_empty(read[0], {2, count}, ScalarType::Long);
  std::vector<double> sigmas(static_cast<size_t>(count));
  auto* const code = static_cast<int64_t*>(codes.data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    const SpectralMatrix& matrix = matrices[static_cast<size_t>(i)];
    STD_TORCH_CHECK(matrix.status != SpectralStatus::kNonFinite,
                    "power_iteration: weights must be finite, but matrix ", i,
                    " holds NaN or infinity");
    sigmas[static_cast<size_t>(i)] = matrix.sigma;
    put_bound(matrix.residual, false, bounds, i);
    put_bound(matrix.lower, true, bounds, count + i);
    put_bound(matrix.upper, false, bounds, 2 * count + i);
    code[i] = matrix.iterations;
    code[count + i] = static_cast<int64_t>(matrix.status);
  }
  copy_out(sigmas, sigma);
  copy_out(u, u_out);
  copy_out(v, v_out);
  return {sigma, u_out, v_out, bounds, codes};
}

// penalty[r] = weight[r] sum over the matrices i of group r of (sigma_i - target_i)^2, where matrix
// i belongs to group i mod R; slope_i = d penalty / d sigma_i.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> spectral_penalty(
    const std::vector<Tensor>& weights, const std::optional<Tensor>& start, const Tensor& target,
    const Tensor& weight, int64_t iters, bool lanczos, int64_t seed) {
  auto [sigma, u, v, bounds, codes] =
      power_iteration(weights, start, iters, -1.0, lanczos, 1e-6, seed);
  const int64_t count = sigma.numel(), groups = weight.numel();
  STD_TORCH_CHECK(target.numel() == count && groups > 0 && count % groups == 0,
                  "spectral_penalty: target must have one number a matrix, weight one a group");
  const Tensor wanted = torch::stable::contiguous(torch::stable::to(target, ScalarType::Double));
  const Tensor factor = torch::stable::contiguous(torch::stable::to(weight, ScalarType::Double));
  const auto* t = static_cast<const double*>(wanted.data_ptr());
  const auto* w = static_cast<const double*>(factor.data_ptr());
  const bool wide = sigma.scalar_type() == ScalarType::Double;
  std::vector<double> sums(static_cast<size_t>(groups)), slopes(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double value = wide ? static_cast<const double*>(sigma.data_ptr())[i]
                              : static_cast<const float*>(sigma.data_ptr())[i];
    const double difference = value - t[i], scale = w[i % groups];
    sums[static_cast<size_t>(i % groups)] += scale * difference * difference;
    slopes[static_cast<size_t>(i)] = 2 * scale * difference;
  }
  Tensor penalty = torch::stable::new_empty(sigma, {groups});
  Tensor slope = torch::stable::new_empty(sigma, {count});
  copy_out(sums, penalty);
  copy_out(slopes, slope);
  return {penalty, sigma, u, v, slope};
}

std::vector<Tensor> power_iteration_backward(const Tensor& grad, const Tensor& u, const Tensor& v,
                                             const std::vector<Tensor>& weights) {
  int64_t count = 0, left = 0, right = 0;
  for (const Tensor& weight : weights) {
    STD_TORCH_CHECK(weight.dim() >= 2 && is_float(weight.scalar_type()),
                    "power_iteration_backward: weights must be floating-point matrices");
    const int64_t stack = stack_size(weight);
    count += stack;
    left += stack * weight.size(weight.dim() - 2);
    right += stack * weight.size(weight.dim() - 1);
  }
  STD_TORCH_CHECK(grad.numel() == count && u.numel() == left && v.numel() == right,
                  "power_iteration_backward: grad, u and v must fit the weights");
  const Tensor scales = torch::stable::contiguous(torch::stable::to(grad, ScalarType::Double));
  const Tensor us = torch::stable::contiguous(torch::stable::to(u, ScalarType::Double));
  const Tensor vs = torch::stable::contiguous(torch::stable::to(v, ScalarType::Double));
  std::vector<Tensor> gradients;
  std::vector<SpectralGradient> tasks;
  const auto* scale = static_cast<const double*>(scales.data_ptr());
  const auto* u_at = static_cast<const double*>(us.data_ptr());
  const auto* v_at = static_cast<const double*>(vs.data_ptr());
  for (const Tensor& weight : weights) {
    const bool wide = weight.scalar_type() == ScalarType::Double;
    std::vector<int64_t> shape;
    for (int64_t axis = 0; axis < weight.dim(); ++axis) shape.push_back(weight.size(axis));
    gradients.push_back(
        torch::stable::new_empty(weight, shape, wide ? ScalarType::Double : ScalarType::Float));
    const int64_t rows = weight.size(weight.dim() - 2), columns = weight.size(weight.dim() - 1);
    auto* data = static_cast<char*>(gradients.back().data_ptr());
    for (int64_t i = 0; i < stack_size(weight); ++i) {
      tasks.push_back({data, wide, rows, columns, *scale++, u_at, v_at});
      data += rows * columns * (wide ? 8 : 4);
      u_at += rows;
      v_at += columns;
    }
  }
  power_iteration_backward_cpu(tasks.data(), static_cast<int64_t>(tasks.size()), torch_parallel());
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i].scalar_type() != gradients[i].scalar_type())
      gradients[i] = torch::stable::to(gradients[i], weights[i].scalar_type());
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def(
      "power_iteration(Tensor[] weights, Tensor? start, int iters, float tol, bool lanczos, "
      "float delta, int seed) -> (Tensor sigma, Tensor u, Tensor v, Tensor bounds, Tensor codes)");
  library.def(
      "spectral_penalty(Tensor[] weights, Tensor? start, Tensor target, Tensor weight, int iters, "
      "bool lanczos, int seed) -> (Tensor penalty, Tensor sigma, Tensor u, Tensor v, Tensor "
      "slope)");
  library.def(
      "power_iteration_backward(Tensor grad, Tensor u, Tensor v, Tensor[] weights) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("power_iteration", TORCH_BOX(&power_iteration));
  library.impl("spectral_penalty", TORCH_BOX(&spectral_penalty));
  library.impl("power_iteration_backward", TORCH_BOX(&power_iteration_backward));
}

}  // namespace fractalkern
