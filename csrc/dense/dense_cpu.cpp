// A network is one task: a worker packs its weights, then streams its points in tiles of at most
// kTileRows through all layers, forward and backward, so activations never leave the first two
// cache levels. Every product is C[row, :] += sum over k of A(row, k) B[k, :], in register tiles of
// kRegisterRows rows: activations lie point by point, rows padded to whole vectors.
//
//   Z_l[t, :]    = b_l + sum over i of H_{l-1}[t, i] W_l^T[i, :]      then H_l = relu(Z_l)
//   dH_{l-1}[t, :] =     sum over o of dZ_l[t, o] W_l[o, :]           then dZ_{l-1}, where H > 0
//   dW_l         =       sum over t of dZ_l[t, o] H_{l-1}[t, :], or its transpose, whichever has
//                        the longer rows
//
// A network's arithmetic depends on nothing but itself: any number of networks or threads gives the
// same bits. Tiles are summed one after another, each in its own accumulators.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/instruction_set.h"
#include "common/simd.h"
#include "dense/dense.h"

namespace fractalkern {

constexpr int kRegisterRows = 6;
constexpr int64_t kTileRows = 60;
constexpr int64_t kWidestLanes = 64 / sizeof(float);

inline int64_t padded(int64_t columns) {
  return (columns + kWidestLanes - 1) / kWidestLanes * kWidestLanes;
}

// Floats that a worker needs.
inline int64_t dense_workspace(const DenseNetworks& networks) {
  int64_t floats = 0, widest = 0;
  for (const DenseLayer& layer : networks.layers) {
    const int64_t in = padded(layer.inputs), out = padded(layer.outputs);
    floats += layer.inputs * out + layer.outputs * in;           // the weights both ways
    floats += std::max(layer.inputs * out, layer.outputs * in);  // their gradient
    floats += 2 * out;                                           // bias and its gradient
    floats += kTileRows * in;                                    // the layer's inputs
    widest = std::max({widest, in, out});
  }
  return floats + 2 * kTileRows * widest;
}

struct DenseTask {
  const DenseNetworks& networks;
  const DenseTargets* targets;  // nullptr: outputs
  int64_t network;
  int64_t begin, end;  // points
  float* workspace;
  float* outputs;   // [end - begin, outputs], or nullptr
  float* loss;      // or nullptr
  float* gradient;  // the network's row, or nullptr
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "dense/dense_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {
namespace {

constexpr EntryPoints<void(const DenseTask&)> kSolve = FRACTALKERN_TABLE(solve_dense);

constexpr int64_t kPointsPerTask = 64 * kTileRows;

// Workers take tasks by number, so each one's workspace is found by a counter of its own.
class Workspaces {
 public:
  Workspaces(const DenseNetworks& networks, int64_t tasks, const Parallel& parallel) {
    const int64_t count = std::min(parallel.threads(), tasks);
    for (int64_t i = 0; i < count; ++i) arrays_.emplace_back(dense_workspace(networks));
  }

  int64_t count() const { return static_cast<int64_t>(arrays_.size()); }
  float* operator[](int64_t worker) const { return arrays_[static_cast<size_t>(worker)].data(); }

 private:
  std::vector<AlignedArray<float>> arrays_;
};

// Calls task(index, workspace) for all indices, a workspace a worker.
template <class Task>
void for_each(const DenseNetworks& networks, int64_t tasks, int64_t elements,
              const Parallel& parallel, const Task& task) {
  const Workspaces workspaces(networks, tasks, parallel);
  std::atomic<int64_t> next{0};
  parallel.for_each(workspaces.count(), elements, [&](int64_t worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
      task(i, workspaces[worker]);
  });
}

int64_t weights_of(const DenseNetworks& networks) {
  int64_t weights = 0;
  for (const DenseLayer& layer : networks.layers) weights += layer.inputs * layer.outputs;
  return weights;
}

// Multiply-adds that take as long as an element of the cheapest kernels.
constexpr int64_t kMultiplyAddsPerElement = 4;

}  // namespace

void dense_outputs_cpu(const DenseNetworks& networks, float* outputs, const Parallel& parallel) {
  const int64_t parts = (networks.points + kPointsPerTask - 1) / kPointsPerTask;
  const int64_t width = networks.layers.back().outputs;
  const int64_t work = networks.networks * networks.points * weights_of(networks);
  auto* const solve = kSolve.active();
  for_each(networks, networks.networks * parts, work / kMultiplyAddsPerElement, parallel,
           [&](int64_t i, float* workspace) {
             const int64_t network = i / parts, begin = i % parts * kPointsPerTask;
             const int64_t end = std::min(begin + kPointsPerTask, networks.points);
             float* const to = outputs + (network * networks.points + begin) * width;
             solve({networks, nullptr, network, begin, end, workspace, to, nullptr, nullptr});
           });
}

void dense_gradients_cpu(const DenseNetworks& networks, const DenseTargets& targets, float* losses,
                         float* gradients, const Parallel& parallel) {
  const int64_t work = 3 * networks.networks * networks.points * weights_of(networks);
  auto* const solve = kSolve.active();
  for_each(networks, networks.networks, work / kMultiplyAddsPerElement, parallel,
           [&](int64_t network, float* workspace) {
             solve({networks, &targets, network, 0, networks.points, workspace, nullptr,
                    losses + network, gradients + network * networks.row_stride});
           });
}

}  // namespace fractalkern
