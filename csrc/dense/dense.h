// Many small fully connected networks at once, each with its own parameters: outputs, and losses
// with their gradients. Layer l computes W h + b, with a ReLU behind every layer but the last.
#pragma once

#include <cstdint>
#include <vector>

#include "common/parallel.h"

namespace fractalkern {

enum class DenseLoss { kBinaryCrossEntropy, kMeanSquaredError, kCrossEntropy };

struct DenseLayer {
  int64_t inputs, outputs;
  int64_t weight, bias;  // first columns of [outputs, inputs] and [outputs] in a network's row
};

struct DenseNetworks {
  std::vector<DenseLayer> layers;  // each one's inputs are the outputs of the one before
  int64_t networks;
  const float* parameters;  // [networks, row], a row every `row_stride` elements
  int64_t row_stride;
  const float* x;  // [points, inputs of the first layer], contiguous
  int64_t points;
  int64_t x_stride;  // from one network's points to the next one's; 0: all share them
};

// outputs [networks, points, outputs of the last layer], contiguous, written.
void dense_outputs_cpu(const DenseNetworks& networks, float* outputs, const Parallel& parallel);

struct DenseTargets {
  DenseLoss loss;
  const float* values;    // [points, outputs]; of kCrossEntropy unused
  const int64_t* labels;  // [points], 0 to outputs - 1; of kCrossEntropy only
  int64_t stride;         // from one network's targets to the next one's; 0: all share them
};

// losses [networks]: the mean over points and outputs, of kCrossEntropy over points. gradients
// [networks, row] with the parameters' row stride: those of the layers' columns, written.
void dense_gradients_cpu(const DenseNetworks& networks, const DenseTargets& targets, float* losses,
                         float* gradients, const Parallel& parallel);

}  // namespace fractalkern
