// Checks the dense kernel against loops in double over random networks, losses and sizes, for every
// instruction set of this CPU and for 1 to 3 threads. Meant for sanitizers: every array has exactly
// its own length.
#include "dense/dense.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/testing.h"

namespace {

using fractalkern::DenseLayer;
using fractalkern::DenseLoss;
using fractalkern::DenseNetworks;
using fractalkern::DenseTargets;
using fractalkern::testing::Random;
using fractalkern::testing::thread_parallel;

struct Problem {
  DenseNetworks networks;
  DenseTargets targets;
  std::vector<float> parameters, x, y;
  std::vector<int64_t> labels;
};

Problem make(Random& random, DenseLoss loss) {
  Problem p;
  const int64_t depth = 1 + random.below(4);
  int64_t columns = 0, inputs = 1 + random.below(70);
  for (int64_t l = 0; l < depth; ++l) {
    const int64_t outputs = 1 + random.below(random.below(2) ? 70 : 5);
    const int64_t weight = columns + random.below(3), bias = weight + inputs * outputs;
    p.networks.layers.push_back({inputs, outputs, weight, bias});
    columns = bias + outputs;
    inputs = outputs;
  }
  p.networks.networks = 1 + random.below(4);
  p.networks.points = 1 + random.below(200);
  p.networks.row_stride = columns;
  const bool own = random.below(2);
  const int64_t sets = own ? p.networks.networks : 1;
  const int64_t width = p.networks.layers.front().inputs;
  p.parameters.resize(static_cast<size_t>(p.networks.networks * columns));
  for (float& value : p.parameters) value = static_cast<float>(0.3 * random.normal());
  p.x.resize(static_cast<size_t>(sets * p.networks.points * width));
  for (float& value : p.x) value = static_cast<float>(random.normal());
  const bool classes = loss == DenseLoss::kCrossEntropy;
  const int64_t targets = p.networks.points * (classes ? 1 : inputs);
  p.y.resize(classes ? 0 : static_cast<size_t>(sets * targets));
  for (float& value : p.y) value = static_cast<float>(random.uniform());
  p.labels.resize(classes ? static_cast<size_t>(sets * targets) : 0);
  for (int64_t& label : p.labels) label = random.below(inputs);
  p.networks.parameters = p.parameters.data();
  p.networks.x = p.x.data();
  p.networks.x_stride = own ? p.networks.points * width : 0;
  p.targets = {loss, p.y.data(), p.labels.data(), own ? targets : 0};
  return p;
}

// The loss of one network in double and the gradient of its row; `outputs` if not null.
double expected(const Problem& p, int64_t network, std::vector<double>& gradient,
                std::vector<double>& outputs) {
  const DenseNetworks& n = p.networks;
  const float* const row = n.parameters + network * n.row_stride;
  gradient.assign(static_cast<size_t>(n.row_stride), 0);
  outputs.clear();
  double total = 0;
  for (int64_t t = 0; t < n.points; ++t) {
    std::vector<std::vector<double>> h;
    const float* const x = n.x + network * n.x_stride + t * n.layers.front().inputs;
    h.emplace_back(x, x + n.layers.front().inputs);
    for (size_t l = 0; l < n.layers.size(); ++l) {
      const DenseLayer& layer = n.layers[l];
      std::vector<double> z(static_cast<size_t>(layer.outputs));
      for (int64_t o = 0; o < layer.outputs; ++o) {
        double sum = row[layer.bias + o];
        for (int64_t i = 0; i < layer.inputs; ++i)
          sum += double{row[layer.weight + o * layer.inputs + i]} * h.back()[size_t(i)];
        z[size_t(o)] = l + 1 < n.layers.size() ? std::max(sum, 0.0) : sum;
      }
      h.push_back(z);
    }
    std::vector<double> dz = h.back();
    outputs.insert(outputs.end(), dz.begin(), dz.end());
    const auto width = static_cast<int64_t>(dz.size());
    const auto count = static_cast<double>(n.points * width);
    if (p.targets.loss == DenseLoss::kCrossEntropy) {
      const auto label = static_cast<size_t>(p.labels[network * p.targets.stride + t]);
      double sum = 0;
      for (const double z : h.back()) sum += std::exp(z);
      total += (std::log(sum) - h.back()[label]) / static_cast<double>(n.points);
      for (double& z : dz) z = std::exp(z) / sum / static_cast<double>(n.points);
      dz[label] -= 1 / static_cast<double>(n.points);
    } else {
      const float* const y = p.y.data() + network * p.targets.stride + t * width;
      for (int64_t o = 0; o < width; ++o) {
        double& z = dz[size_t(o)];
        if (p.targets.loss == DenseLoss::kMeanSquaredError) {
          total += (z - y[o]) * (z - y[o]) / count;
          z = 2 * (z - y[o]) / count;
        } else {
          total += (std::log1p(std::exp(z)) - z * y[o]) / count;
          z = (1 / (1 + std::exp(-z)) - y[o]) / count;
        }
      }
    }
    for (size_t l = n.layers.size(); l-- > 0;) {
      const DenseLayer& layer = n.layers[l];
      std::vector<double> next(static_cast<size_t>(layer.inputs), 0);
      for (int64_t o = 0; o < layer.outputs; ++o) {
        gradient[size_t(layer.bias + o)] += dz[size_t(o)];
        for (int64_t i = 0; i < layer.inputs; ++i) {
          const auto at = size_t(layer.weight + o * layer.inputs + i);
          gradient[at] += dz[size_t(o)] * h[l][size_t(i)];
          if (h[l][size_t(i)] > 0) next[size_t(i)] += dz[size_t(o)] * double{row[at]};
        }
      }
      dz = next;
    }
  }
  return total;
}

void check_problem(const Problem& p, const std::string& name, int64_t threads) {
  const DenseNetworks& n = p.networks;
  const auto columns = static_cast<size_t>(n.row_stride);
  std::vector<float> losses(static_cast<size_t>(n.networks), NAN);
  std::vector<float> gradients(p.parameters.size(), 0.0f);
  const auto width = static_cast<size_t>(n.points * n.layers.back().outputs);
  std::vector<float> outputs(width * losses.size(), NAN);
  dense_gradients_cpu(n, p.targets, losses.data(), gradients.data(), thread_parallel(threads));
  dense_outputs_cpu(n, outputs.data(), thread_parallel(threads));
  std::vector<double> gradient, values;
  for (size_t r = 0; r < losses.size(); ++r) {
    const double loss = expected(p, static_cast<int64_t>(r), gradient, values);
    CHECK(std::abs(losses[r] - loss) <= 1e-5 * (1 + loss), name, losses[r], loss);
    double largest = 0, worst = 0, furthest = 0;
    for (size_t i = 0; i < columns; ++i) {
      largest = std::max(largest, std::abs(gradient[i]));
      worst = std::max(worst, std::abs(gradient[i] - gradients[r * columns + i]));
    }
    CHECK(worst <= 1e-4 * largest + 1e-7, name, worst, largest);
    for (size_t i = 0; i < width; ++i)
      furthest = std::max(furthest, std::abs(values[i] - outputs[r * width + i]));
    CHECK(furthest <= 1e-4, name, furthest);
  }
}

}  // namespace

int main() {
  fractalkern::testing::for_each_instruction_set([](const std::string& name) {
    Random random(1);
    for (int trial = 0; trial < 60; ++trial) {
      const auto loss = static_cast<DenseLoss>(trial % 3);
      check_problem(make(random, loss), name, 1 + trial % 3);
    }
  });
  return fractalkern::testing::testing_result();
}
