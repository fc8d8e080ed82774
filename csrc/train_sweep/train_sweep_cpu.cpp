// Trains networks in blocks of one vector: lane l of every vector belongs to network l of the
// block, so weights, activations and gradients need no shuffle, tanh is a straight line of vector
// code, and a lane's arithmetic does not depend on its neighbours: any chunking, order or number of
// threads gives the same bits. Data values are broadcast scalars.
//
// One step streams the rows in chunks: register tiles of the product x W0, activation, output and
// residual, then register tiles of the gradient product x^T dZ. Weights, gradient and a chunk of
// hidden values stay in the first two cache levels; chunks long enough that loading the gradient
// tiles does not count. Nothing but the results leaves the block.
//
// Parallel mapping: each worker owns one block and refills a finished lane with the next network of
// a shared counter, so early exits leave no lane idle and no thread waits for another. With
// minibatches all lanes of a block must be at the same step, so lanes are refilled together.
//
// Tried and lost: chunks of 8, 16 and 32 rows (1 to 4 % slower, n = 16), a division for each tanh
// or one shared division and two of their own in four (no gain where divisions are fast, a loss
// where they are slow), tanh in groups of 2, 6 and 8 (up to 12 % slower).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "common/host_device.h"
#include "common/instruction_set.h"
#include "common/simd.h"
#include "train_sweep/train_sweep.h"

namespace fractalkern {

constexpr int64_t kMaxChunkRows = 72;
constexpr int64_t kRowTile = 4;

// Chunks of nearly equal size, whole register tiles each but the last.
inline int64_t chunk_size(int64_t rows) {
  const int64_t chunks = (rows + kMaxChunkRows - 1) / kMaxChunkRows;
  return ((rows + chunks - 1) / chunks + kRowTile - 1) / kRowTile * kRowTile;
}

constexpr int kMaxLanes = 64 / sizeof(float);

// What all workers share: the arguments and the prepared data.
template <class T>
struct Shared {
  const TrainSweepArgs<T>& args;
  const T* scaled_x;      // [D, n], x times the first layer's scale
  const T* scaled_probe;  // [n] or nullptr
  std::atomic<int64_t>* next_network;
};

template <class T>
struct WorkerArgs {
  const Shared<T>& shared;
  T* workspace;  // workspace_lanes(args) scalars per lane, for kMaxLanes lanes
};

template <class T>
int64_t workspace_vectors(const TrainSweepArgs<T>& args) {
  return 2 * (args.inputs * args.hidden + args.hidden * args.outputs) +
         kMaxChunkRows * (2 * args.hidden + args.outputs);
}

template <class T>
struct TanhArgs {
  const T* in;
  T* out;
  int64_t size;
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "train_sweep/train_sweep_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {
namespace {

constexpr EntryPoints<void(const WorkerArgs<double>&)> kTrainDouble =
    FRACTALKERN_TABLE(train_double);
constexpr EntryPoints<void(const WorkerArgs<float>&)> kTrainFloat = FRACTALKERN_TABLE(train_float);
constexpr EntryPoints<void(const TanhArgs<double>&)> kTanhDouble = FRACTALKERN_TABLE(tanh_double);
constexpr EntryPoints<void(const TanhArgs<float>&)> kTanhFloat = FRACTALKERN_TABLE(tanh_float);

template <class T, class Entry>
void train(const TrainSweepArgs<T>& args, const Parallel& parallel, Entry* worker) {
  const T scale = input_scale(args);
  std::vector<T> scaled_x(args.x, args.x + args.rows * args.inputs);
  for (T& value : scaled_x) value *= scale;
  std::vector<T> scaled_probe;
  if (args.probe) {
    scaled_probe.assign(args.probe, args.probe + args.inputs);
    for (T& value : scaled_probe) value *= scale;
  }
  std::atomic<int64_t> next_network{0};
  const Shared<T> shared{args, scaled_x.data(), args.probe ? scaled_probe.data() : nullptr,
                         &next_network};

  const int64_t lanes = kMaxLanes;
  const int64_t workers = std::min(parallel.threads(), args.networks);
  std::vector<AlignedArray<T>> workspaces;
  for (int64_t i = 0; i < workers; ++i) workspaces.emplace_back(workspace_vectors(args) * lanes);
  const int64_t elements = args.networks * args.steps * args.rows * args.hidden;
  parallel.for_each(workers, elements, [&](int64_t index) {
    worker(WorkerArgs<T>{shared, workspaces[index].data()});
  });
}

}  // namespace

void train_sweep_cpu(const TrainSweepArgs<double>& args, const Parallel& parallel) {
  train(args, parallel, kTrainDouble.active());
}

void train_sweep_cpu(const TrainSweepArgs<float>& args, const Parallel& parallel) {
  train(args, parallel, kTrainFloat.active());
}

void vector_tanh_cpu(const double* in, double* out, int64_t size) {
  kTanhDouble.active()({in, out, size});
}

void vector_tanh_cpu(const float* in, float* out, int64_t size) {
  kTanhFloat.active()({in, out, size});
}

}  // namespace fractalkern
