// The life of networks on a GPU: a team of lanes trains one network after the other. Every kernel
// of train_sweep runs train_networks() with an engine of its own, which holds a network's weights
// and does the arithmetic of a step.
//
// An Engine has
//   kTeam                      lanes of a network, a power of two up to 32
//   start(drawn, added)        weights of w0 + added and w1, or all zero for an idle team
//   drift(added)               w0 += added
//   pass<gradient>(rows, m)    the mean loss of m rows, to all lanes; the gradient, kept
//   update(lr0, lr1)           W -= lr * gradient; whether one of this lane's weights changed
//   poisoned()                 whether this lane knows that outputs are NaN: see train_networks()
//   predict(row)               the output of a row of the prepared data, to all lanes
//
// The lanes of a warp run in step whatever their networks do, so that warp operations always name
// the whole warp: an idle team trains a network of zeros.
#pragma once

#include "train_sweep/train_sweep_cuda_math.h"

namespace fractalkern::cuda {

template <class T>
struct Sweep {
  TrainSweepArgs<T> args;
  // Copies of x times its scale and of y, each row of x `stride` long, with zero rows up to a
  // multiple of kRowMultiple and the probe as row `padded_rows`.
  const T* x;  // [padded_rows + 1, stride]
  const T* y;  // [padded_rows + 1, k], right behind
  int64_t stride;
  int64_t padded_rows;
  int64_t data_bytes;  // of x and y, a multiple of 16
  unsigned long long* next_network;
  T* workspace;  // engines that need none: nullptr
};

constexpr int kRowMultiple = 16;

// Which row of the prepared data stands in a slot of a pass.
struct AllRows {
  __device__ __forceinline__ int64_t operator()(int64_t slot) const { return slot; }
};
struct BatchRows {
  const int64_t* rows;
  int64_t count;
  __device__ __forceinline__ int64_t operator()(int64_t slot) const {
    return slot < count ? rows[slot] : 0;
  }
};
struct OneRow {
  int64_t row;
  __device__ __forceinline__ int64_t operator()(int64_t) const { return row; }
};

// The block's copy of the prepared data; every thread of it must call.
template <class T>
__device__ __forceinline__ const T* data_to_shared(const Sweep<T>& sweep) {
  struct alignas(16) Words {
    unsigned word[4];
  };
  Words* to = dynamic_shared<Words>();
  const Words* from = reinterpret_cast<const Words*>(sweep.x);
  const int count = static_cast<int>(sweep.data_bytes / 16);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    to[i] = from[i];
  __syncthreads();
  return reinterpret_cast<const T*>(to);
}

template <class Engine, class T>
class Team {
 public:
  __device__ __forceinline__ Team(Engine& engine, const Sweep<T>& sweep)
      : engine_(engine), sweep_(sweep), args_(sweep.args) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    lane_ = lane % Engine::kTeam;
    mask_ = (kWholeWarp >> (kWarp - Engine::kTeam)) << (lane - lane_);
  }

  // Takes networks from the queue until it is empty.
  __device__ void train() {
    for (;;) {
      const bool free = network_ < 0 && !drained_;
      if (__any_sync(kWholeWarp, free)) take(free);
      if (__all_sync(kWholeWarp, network_ < 0)) return;
      step();
    }
  }

 private:
  __device__ __forceinline__ bool any(bool predicate) const {
    return (__ballot_sync(kWholeWarp, predicate) & mask_) != 0;
  }

  __device__ void take(bool free) {
    unsigned long long ticket = 0;
    if (free && lane_ == 0) ticket = atomicAdd(sweep_.next_network, 1ull);
    ticket = __shfl_sync(kWholeWarp, ticket, 0, Engine::kTeam);
    if (!free) return;
    const int64_t p = static_cast<int64_t>(ticket);
    drained_ = p >= args_.networks;
    lr0_ = lr1_ = offset_ = T(0);
    step_ = 0;
    if (!drained_) {
      network_ = p;
      steps_run_ = args_.steps;
      meter_ = ConvergenceMeter();
      lr0_ = args_.lr0[p];
      lr1_ = args_.lr1[p];
      if (args_.offset != nullptr) offset_ = args_.offset[p];
    }
    engine_.start(!drained_, args_.offset_every_step ? T(0) : offset_);
  }

  // Records the loss at the network's own step, updates its weights, retires it when it is done.
  __device__ void step() {
    if (args_.offset_every_step) engine_.drift(offset_);
    T loss;
    if (args_.batches != nullptr) {
      loss = engine_.template pass<false>(AllRows{}, args_.rows);
      const BatchRows batch{args_.batches + step_ * args_.batch_rows, args_.batch_rows};
      engine_.template pass<true>(batch, args_.batch_rows);
    } else {
      loss = engine_.template pass<true>(AllRows{}, args_.rows);
    }
    const bool active = network_ >= 0;
    if (active) record(loss);
    const bool last = active && step_ == args_.steps - 1;
    T readout = T(0);
    const bool reads = args_.probe != nullptr;
    if (reads && __any_sync(kWholeWarp, last)) readout = engine_.predict(sweep_.padded_rows);

    const bool changed = any(engine_.update(lr0_, lr1_));
    const bool poisoned = any(engine_.poisoned()) && args_.batches == nullptr;
    const bool settled = args_.batches == nullptr && !args_.offset_every_step && !changed;
    if (settled && step_ < steps_run_) steps_run_ = step_;
    if (active) ++step_;
    if (poisoned && step_ < steps_run_) steps_run_ = step_;
    // After an unchanged step or with all outputs NaN the readout no longer depends on the step.
    const bool proven = (settled || poisoned) && args_.early_exit;
    const bool done = active && (step_ >= args_.steps || proven);
    if (!__any_sync(kWholeWarp, done)) return;
    if (reads && __any_sync(kWholeWarp, done && !last)) {
      const T now = engine_.predict(sweep_.padded_rows);
      if (!last) readout = now;
    }
    if (!done) return;
    const bool nan = poisoned && !last;
    retire(nan ? static_cast<T>(NAN) : loss, nan ? static_cast<T>(NAN) : readout);
  }

  __device__ __forceinline__ bool in_tail(int64_t step) const {
    return step >= args_.steps - ConvergenceMeter::kTail;
  }

  __device__ __forceinline__ void record(T loss) {
    meter_.record(static_cast<double>(loss), in_tail(step_));
    if (lane_ != 0) return;
    if (step_ == 0) args_.first_loss[network_] = loss;
    if (args_.history != nullptr) args_.history[step_ * args_.networks + network_] = loss;
  }

  // Fills the entries that the weights have proven to equal `loss`, and stores the results.
  __device__ void retire(T loss, T readout) {
    const auto entry = meter_.entry(static_cast<double>(loss));
    for (int64_t t = step_; t < args_.steps; ++t) meter_.add(entry, in_tail(t));
    if (args_.history != nullptr)
      for (int64_t t = step_ + lane_; t < args_.steps; t += Engine::kTeam)
        args_.history[t * args_.networks + network_] = loss;
    if (lane_ == 0) {
      const bool converged = meter_.converged(args_.published);
      double value = meter_.value(converged);
      if (args_.probe != nullptr)
        value = std::isfinite(readout) ? static_cast<double>(readout) : ConvergenceMeter::kLossCap;
      args_.value[network_] = static_cast<T>(value);
      args_.converged[network_] = converged;
      args_.final_loss[network_] = loss;
      args_.steps_run[network_] = steps_run_;
    }
    network_ = -1;
  }

  Engine& engine_;
  const Sweep<T>& sweep_;
  const TrainSweepArgs<T>& args_;
  int lane_;       // within the team
  unsigned mask_;  // the team's lanes
  bool drained_ = false;
  int64_t network_ = -1;  // -1: idle
  int64_t step_ = 0;
  int64_t steps_run_ = 0;
  T lr0_ = T(0), lr1_ = T(0), offset_ = T(0);
  ConvergenceMeter meter_;
};

template <class Engine, class T>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocks)
    train_networks(const __grid_constant__ Sweep<T> sweep) {
  Engine engine(sweep);
  engine.start(false, T(0));
  Team<Engine, T>(engine, sweep).train();
}

// Scales and pads the data.
template <class T>
__global__ void prepare_data(const __grid_constant__ Sweep<T> sweep, T scale, T* x, T* y) {
  const TrainSweepArgs<T>& args = sweep.args;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t rows = sweep.padded_rows + 1;
  for (int64_t i = first; i < rows * sweep.stride; i += threads) {
    const int64_t row = i / sweep.stride, column = i % sweep.stride;
    T value = T(0);
    if (column < args.inputs) {
      if (row < args.rows) value = args.x[row * args.inputs + column] * scale;
      if (row == sweep.padded_rows && args.probe != nullptr) value = args.probe[column] * scale;
    }
    x[i] = value;
  }
  for (int64_t i = first; i < rows * args.outputs; i += threads)
    y[i] = i < args.rows * args.outputs ? args.y[i] : T(0);
}

}  // namespace fractalkern::cuda
