// The life of networks on a GPU: a team of lanes trains one network after the other. Every kernel
// of train_sweep runs train_networks() with an engine of its own, which holds a network's weights
// and does the arithmetic of a step.
//
// An Engine has
//   kTeam                      lanes of a network, a power of two up to 32
//   start(drawn, added)        weights of w0 + added and w1, or all zero for an idle team
//   drift(added)               w0 += added
//   Index                      an integer that holds all rows of a pass
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
  T output_scale;      // of a sum over hidden units
  T residual_scale;    // of a residual in the gradient
  unsigned long long* next_network;
  T* workspace;  // engines that need none: nullptr
};

constexpr int kRowMultiple = 16;

// Which row of the prepared data stands in a slot of a pass.
struct AllRows {
  template <class Index>
  __device__ __forceinline__ Index operator()(Index slot) const {
    return slot;
  }
};
template <class Index>
struct BatchRows {
  const int64_t* rows;
  Index count;
  __device__ __forceinline__ Index operator()(Index slot) const {
    return slot < count ? static_cast<Index>(rows[slot]) : 0;
  }
};
template <class Index>
struct OneRow {
  Index row;
  __device__ __forceinline__ Index operator()(Index) const { return row; }
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

// What a team knows of its network, in shared memory: between steps, when it is needed, registers
// are full of weights. Written by the team's first lane.
template <class T>
struct TeamState {
  int64_t network;  // -1: idle
  int64_t step;
  int64_t steps_run;
  T lr0, lr1, offset;
  bool drained;
  ConvergenceMeter meter;
};

template <class Engine, class T>
int64_t shared_bytes(int64_t data_bytes) {
  constexpr int64_t kStates = Engine::kThreads / Engine::kTeam * sizeof(TeamState<T>);
  return kStates + (Engine::kDataInShared ? data_bytes : 0);
}

template <class Engine, class T>
class Team {
 public:
  __device__ __forceinline__ Team(Engine& engine, const Sweep<T>& sweep)
      : engine_(engine),
        sweep_(sweep),
        args_(sweep.args),
        lane_(static_cast<int>(threadIdx.x) % Engine::kTeam),
        state_(states(sweep)[threadIdx.x / Engine::kTeam]) {}

  // Takes networks from the queue until it is empty.
  __device__ void train() {
    engine_.start(false, T(0));
    if (lane_ == 0) {
      state_.network = -1;
      state_.drained = false;
    }
    __syncwarp();
    for (;;) {
      const bool free = state_.network < 0 && !state_.drained;
      if (__any_sync(kWholeWarp, free)) take(free);
      if (__all_sync(kWholeWarp, state_.network < 0)) return;
      step();
    }
  }

 private:
  __device__ static TeamState<T>* states(const Sweep<T>& sweep) {
    const int64_t first = Engine::kDataInShared ? sweep.data_bytes : 0;
    return reinterpret_cast<TeamState<T>*>(dynamic_shared<unsigned char>() + first);
  }

  __device__ __forceinline__ bool any(bool predicate) const {
    const int first = static_cast<int>(threadIdx.x) % kWarp - lane_;
    const unsigned team = (kWholeWarp >> (kWarp - Engine::kTeam)) << first;
    return (__ballot_sync(kWholeWarp, predicate) & team) != 0;
  }

  __device__ void take(bool free) {
    __syncwarp();
    if (free && lane_ == 0) {
      const int64_t p = static_cast<int64_t>(atomicAdd(sweep_.next_network, 1ull));
      state_.step = 0;
      state_.steps_run = args_.steps;
      state_.lr0 = state_.lr1 = state_.offset = T(0);
      state_.drained = p >= args_.networks;
      if (!state_.drained) {
        state_.network = p;
        state_.lr0 = args_.lr0[p];
        state_.lr1 = args_.lr1[p];
        if (args_.offset != nullptr) state_.offset = args_.offset[p];
        state_.meter = ConvergenceMeter();
      }
    }
    __syncwarp();
    if (free) engine_.start(!state_.drained, args_.offset_every_step ? T(0) : state_.offset);
  }

  // Records the loss at the network's own step, updates its weights, retires it when it is done.
  __device__ void step() {
    if (args_.offset_every_step) engine_.drift(state_.offset);
    const auto rows = static_cast<typename Engine::Index>(args_.rows);
    T loss;
    if (args_.batches != nullptr) {
      loss = engine_.template pass<false>(AllRows{}, rows);
      const auto batch_rows = static_cast<typename Engine::Index>(args_.batch_rows);
      const int64_t* first = args_.batches + state_.step * args_.batch_rows;
      engine_.template pass<true>(BatchRows<typename Engine::Index>{first, batch_rows}, batch_rows);
    } else {
      loss = engine_.template pass<true>(AllRows{}, rows);
    }
    const bool active = state_.network >= 0;
    const bool last = active && state_.step == args_.steps - 1;
    if (active && lane_ == 0) record(loss);
    T readout = T(0);
    const bool reads = args_.probe != nullptr;
    if (reads && __any_sync(kWholeWarp, last)) readout = predict();

    const bool changed = any(engine_.update(state_.lr0, state_.lr1));
    const bool poisoned = any(engine_.poisoned()) && args_.batches == nullptr;
    const bool settled = args_.batches == nullptr && !args_.offset_every_step && !changed;
    int64_t step = state_.step, steps_run = state_.steps_run;
    if (settled && step < steps_run) steps_run = step;
    if (active) ++step;
    if (poisoned && step < steps_run) steps_run = step;
    __syncwarp();
    if (lane_ == 0) {
      state_.step = step;
      state_.steps_run = steps_run;
    }
    // After an unchanged step or with all outputs NaN the readout no longer depends on the step.
    const bool proven = (settled || poisoned) && args_.early_exit;
    const bool done = active && (step >= args_.steps || proven);
    if (__any_sync(kWholeWarp, done)) {
      if (reads && __any_sync(kWholeWarp, done && !last)) {
        const T now = predict();
        if (!last) readout = now;
      }
      const bool nan = poisoned && !last;
      if (done) retire(nan ? static_cast<T>(NAN) : loss, nan ? static_cast<T>(NAN) : readout, step);
      __syncwarp();
      if (done && lane_ == 0) state_.network = -1;
    }
    __syncwarp();
  }

  __device__ T predict() {
    return engine_.predict(static_cast<typename Engine::Index>(sweep_.padded_rows));
  }

  __device__ __forceinline__ bool in_tail(int64_t step) const {
    return step >= args_.steps - ConvergenceMeter::kTail;
  }

  __device__ __forceinline__ void record(T loss) {
    const int64_t step = state_.step, network = state_.network;
    state_.meter.record(static_cast<double>(loss), in_tail(step));
    if (step == 0) args_.first_loss[network] = loss;
    if (args_.history != nullptr) args_.history[step * args_.networks + network] = loss;
  }

  // Fills the entries from `step` on, which the weights have proven to equal `loss`, and stores the
  // results.
  __device__ void retire(T loss, T readout, int64_t step) {
    const int64_t network = state_.network;
    if (args_.history != nullptr)
      for (int64_t t = step + lane_; t < args_.steps; t += Engine::kTeam)
        args_.history[t * args_.networks + network] = loss;
    if (lane_ != 0) return;
    ConvergenceMeter meter = state_.meter;
    const auto entry = meter.entry(static_cast<double>(loss));
    for (int64_t t = step; t < args_.steps; ++t) meter.add(entry, in_tail(t));
    const bool converged = meter.converged(args_.published);
    double value = meter.value(converged);
    if (args_.probe != nullptr)
      value = std::isfinite(readout) ? static_cast<double>(readout) : ConvergenceMeter::kLossCap;
    args_.value[network] = static_cast<T>(value);
    args_.converged[network] = converged;
    args_.final_loss[network] = loss;
    args_.steps_run[network] = state_.steps_run;
  }

  Engine& engine_;
  const Sweep<T>& sweep_;
  const TrainSweepArgs<T>& args_;
  const int lane_;  // within the team
  TeamState<T>& state_;
};

template <class Engine, class T>
__global__ void __launch_bounds__(Engine::kThreads, Engine::kBlocks)
    train_networks(const __grid_constant__ Sweep<T> sweep) {
  Engine engine(sweep);
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
  const int64_t rest = sweep.data_bytes / static_cast<int64_t>(sizeof(T)) - rows * sweep.stride;
  for (int64_t i = first; i < rest; i += threads)
    y[i] = i < args.rows * args.outputs ? args.y[i] : T(0);
}

}  // namespace fractalkern::cuda
