// The body of train_sweep, compiled once per instruction set; see train_sweep_cpu.cpp for the
// algorithm and common/each_instruction_set.h for how. No include guard.

#define FRACTALKERN_TARGET_INLINE FRACTALKERN_TARGET inline __attribute__((always_inline))
namespace fractalkern::FRACTALKERN_ISA {

// The at_most of train_sweep_math.h in one instruction, where the compiler would compare and blend:
// x86's min returns its second operand if either is NaN.
#if FRACTALKERN_ISA_LEVEL == 4
FRACTALKERN_TARGET_INLINE auto at_most(VectorOf<double, 64>::type x, double limit) {
  return __builtin_ia32_minpd512_mask(VectorOf<double, 64>::type{} + limit, x, x, -1, 4);
}
FRACTALKERN_TARGET_INLINE auto at_most(VectorOf<float, 64>::type x, float limit) {
  return __builtin_ia32_minps512_mask(VectorOf<float, 64>::type{} + limit, x, x, -1, 4);
}
#elif FRACTALKERN_ISA_LEVEL == 3
FRACTALKERN_TARGET_INLINE auto at_most(VectorOf<double, 32>::type x, double limit) {
  return __builtin_ia32_minpd256(VectorOf<double, 32>::type{} + limit, x);
}
FRACTALKERN_TARGET_INLINE auto at_most(VectorOf<float, 32>::type x, float limit) {
  return __builtin_ia32_minps256(VectorOf<float, 32>::type{} + limit, x);
}
#endif

}  // namespace fractalkern::FRACTALKERN_ISA

#define FRACTALKERN_MATH FRACTALKERN_TARGET_INLINE
#include "train_sweep/train_sweep_math.h"
#undef FRACTALKERN_MATH

namespace fractalkern::FRACTALKERN_ISA {

#define FRACTALKERN_VECTOR_TRAITS(T, I, BYTES)           \
  template <>                                            \
  struct RealTraits<typename VectorOf<T, BYTES>::type> { \
    using Scalar = T;                                    \
    using Bits = typename VectorOf<I, BYTES>::type;      \
  };
FRACTALKERN_VECTOR_TRAITS(double, int64_t, 16)
FRACTALKERN_VECTOR_TRAITS(double, int64_t, 32)
FRACTALKERN_VECTOR_TRAITS(double, int64_t, 64)
FRACTALKERN_VECTOR_TRAITS(float, int32_t, 16)
FRACTALKERN_VECTOR_TRAITS(float, int32_t, 32)
FRACTALKERN_VECTOR_TRAITS(float, int32_t, 64)
#undef FRACTALKERN_VECTOR_TRAITS

// One lane's bookkeeping.
struct Lane {
  int64_t network = -1;  // -1: idle
  int64_t step = 0;
  int64_t steps_run = 0;
  ConvergenceMeter meter;
};

// Vectors per call of fast_tanh, as registers allow. Without fused multiply-adds a shared division
// would be one rounding too many for 2 ulp: one at a time.
constexpr int kTanhGroup = FRACTALKERN_ISA_LEVEL == 4 ? 4 : FRACTALKERN_ISA_LEVEL == 3 ? 2 : 1;

template <class V, class T, std::size_t... kLane>
FRACTALKERN_TARGET_INLINE V broadcast(T scalar, std::index_sequence<kLane...>) {
  return V{((void)kLane, scalar)...};
}

template <class V, class T>
FRACTALKERN_TARGET_INLINE V broadcast(T scalar) {
  return broadcast<V>(scalar, std::make_index_sequence<sizeof(V) / sizeof(T)>());
}

// Sizes that are 0 as template arguments are read at run time.
template <class T, int kInputs, int kHidden, int kOutputs>
class Block {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  using Mask = typename RealTraits<V>::Bits;
  static constexpr int kLanes = FRACTALKERN_ISA_TAG::kVectorBytes / sizeof(T);
  // Accumulators of a register tile: enough to hide the latency of two multiply-adds a cycle, few
  // enough that one operand row and a broadcast fit beside them.
  static constexpr int kTileRows = kRowTile;
  static constexpr int kTileColumns = FRACTALKERN_ISA_TAG::kRegisters == 32 ? 4 : 2;
  static constexpr int kOutputTile = FRACTALKERN_ISA_TAG::kRegisters == 32 ? 8 : 4;

 public:
  FRACTALKERN_TARGET explicit Block(const WorkerArgs<T>& worker)
      : args_(worker.shared.args), shared_(worker.shared) {
    V* vectors = reinterpret_cast<V*>(worker.workspace);
    w0_ = vectors;
    w1_ = w0_ + n() * h();
    g0_ = w1_ + h() * k();
    g1_ = g0_ + n() * h();
    hidden_ = g1_ + h() * k();
    residual_ = hidden_ + kMaxChunkRows * h();
    back_ = residual_ + kMaxChunkRows * k();
  }

  FRACTALKERN_TARGET void run() {
    const int64_t weights = n() * h() + h() * k();
    for (int64_t i = 0; i < weights; ++i) w0_[i] = V{};  // w0 and w1: idle lanes stay finite
    lr0_ = lr1_ = offset_ = V{};
    std::vector<T> batch_x(args_.batches ? args_.batch_rows * n() : 0);
    std::vector<T> batch_y(args_.batches ? args_.batch_rows * k() : 0);
    for (;;) {
      if (!args_.batches || active_ == 0) refill();
      if (active_ == 0) return;
      step(batch_x.data(), batch_y.data());
    }
  }

 private:
  FRACTALKERN_TARGET_INLINE int64_t n() const { return kInputs ? kInputs : args_.inputs; }
  FRACTALKERN_TARGET_INLINE int64_t h() const { return kHidden ? kHidden : args_.hidden; }
  FRACTALKERN_TARGET_INLINE int64_t k() const { return kOutputs ? kOutputs : args_.outputs; }

  // Puts the next networks into the idle lanes.
  FRACTALKERN_TARGET void refill() {
    for (int l = 0; l < kLanes; ++l) {
      if (lane_[l].network >= 0 || drained_) continue;
      const int64_t p = shared_.next_network->fetch_add(1, std::memory_order_relaxed);
      if (p >= args_.networks) {
        drained_ = true;
        return;
      }
      lane_[l] = Lane{p, 0, args_.steps, {}};
      const T offset = args_.offset ? args_.offset[p] : T(0);
      const T initial = args_.offset && !args_.offset_every_step ? offset : T(0);
      for (int64_t i = 0; i < n() * h(); ++i) w0_[i][l] = args_.w0[i] + initial;
      for (int64_t i = 0; i < h() * k(); ++i) w1_[i][l] = args_.w1[i];
      lr0_[l] = args_.lr0[p];
      lr1_[l] = args_.lr1[p];
      offset_[l] = offset;
      ++active_;
    }
  }

  // Records the loss of every active lane at its own step, updates the weights, retires lanes.
  FRACTALKERN_TARGET void step(T* batch_x, T* batch_y) {
    if (args_.offset_every_step)
      for (int64_t i = 0; i < n() * h(); ++i) w0_[i] += offset_;
    for (int64_t i = 0; i < n() * h() + h() * k(); ++i) g0_[i] = V{};  // g0 and g1
    largest_residual_ = V{};
    V loss;
    if (args_.batches) {
      loss = pass<false>(shared_.scaled_x, args_.y, args_.rows);
      gather(batch_x, batch_y);
      pass<true>(batch_x, batch_y, args_.batch_rows);
    } else {
      loss = pass<true>(shared_.scaled_x, args_.y, args_.rows);
    }

    bool last = false;
    for (int l = 0; l < kLanes; ++l) {
      if (lane_[l].network < 0) continue;
      record(l, loss[l]);
      last |= lane_[l].step == args_.steps - 1;
    }
    V readout = {};
    if (shared_.scaled_probe && last) readout = probe();

    const Mask changed = update();
    const Mask poisoned = args_.batches ? Mask{} : outputs_poisoned();
    // After an unchanged step or with all outputs NaN the readout no longer depends on the step.
    bool probed = last;
    for (int l = 0; l < kLanes; ++l) {
      Lane& lane = lane_[l];
      if (lane.network < 0) continue;
      const bool settled = !args_.batches && !args_.offset_every_step && !changed[l];
      if (settled) lane.steps_run = std::min(lane.steps_run, lane.step);
      ++lane.step;
      if (poisoned[l]) lane.steps_run = std::min(lane.steps_run, lane.step);
      const bool proven = (settled || poisoned[l]) && args_.early_exit;
      if (lane.step < args_.steps && !proven) continue;
      if (shared_.scaled_probe && !probed) {
        readout = probe();
        probed = true;
      }
      retire(l,
             poisoned[l] && lane.step < args_.steps ? std::numeric_limits<T>::quiet_NaN() : loss[l],
             lane.step < args_.steps && poisoned[l] ? std::numeric_limits<T>::quiet_NaN()
                                                    : readout[l]);
    }
  }

  FRACTALKERN_TARGET void record(int l, T loss) {
    Lane& lane = lane_[l];
    lane.meter.record(loss, lane.step >= args_.steps - ConvergenceMeter::kTail);
    if (lane.step == 0) args_.first_loss[lane.network] = loss;
    if (args_.history) args_.history[lane.step * args_.networks + lane.network] = loss;
  }

  // Fills the entries that the weights have proven to equal `loss`, and stores the results.
  FRACTALKERN_TARGET void retire(int l, T loss, T readout) {
    Lane& lane = lane_[l];
    for (; lane.step < args_.steps; ++lane.step) record(l, loss);
    const bool converged = lane.meter.converged(args_.published);
    double value = lane.meter.value(converged);
    if (shared_.scaled_probe)
      value = std::isfinite(readout) ? static_cast<double>(readout) : ConvergenceMeter::kLossCap;
    args_.value[lane.network] = static_cast<T>(value);
    args_.converged[lane.network] = converged;
    args_.final_loss[lane.network] = loss;
    args_.steps_run[lane.network] = lane.steps_run;
    for (int64_t i = 0; i < n() * h() + h() * k(); ++i) w0_[i][l] = T(0);  // w0 and w1
    lane.network = -1;
    --active_;
  }

  FRACTALKERN_TARGET void gather(T* batch_x, T* batch_y) const {
    // Lanes share their step: they were refilled together.
    const auto active =
        std::find_if(lane_, lane_ + kLanes, [](const Lane& lane) { return lane.network >= 0; });
    const int64_t* rows = args_.batches + active->step * args_.batch_rows;
    for (int64_t r = 0; r < args_.batch_rows; ++r) {
      std::copy_n(shared_.scaled_x + rows[r] * n(), n(), batch_x + r * n());
      std::copy_n(args_.y + rows[r] * k(), k(), batch_y + r * k());
    }
  }

  // Mean loss over `rows` rows of x and y; with kGradient its gradient is added to g0 and g1.
  template <bool kGradient>
  FRACTALKERN_TARGET V pass(const T* x, const T* y, int64_t rows) {
    const T residual_scale =
        static_cast<T>(2.0 / (static_cast<double>(rows) * static_cast<double>(k() * h())));
    V sum = {};
    const int64_t chunk_rows = chunk_size(rows);
    for (int64_t first = 0; first < rows; first += chunk_rows) {
      const int64_t count = std::min(chunk_rows, rows - first);
      const T* chunk = x + first * n();
      hidden_layer(chunk, count);
      sum += output_layer(y + first * k(), count);
      if constexpr (kGradient) {
        backward_output(count, residual_scale);
        backward_input(chunk, count);
      }
    }
    return sum / (static_cast<T>(rows) * static_cast<T>(k()));
  }

  FRACTALKERN_TARGET_INLINE void hidden_layer(const T* x, int64_t rows) {
    int64_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows) hidden_rows<kTileRows>(x, r);
    for (; r < rows; ++r) hidden_rows<1>(x, r);
    activate(rows);
  }

  template <int kRows>
  FRACTALKERN_TARGET_INLINE void hidden_rows(const T* x, int64_t r) {
    int64_t j = 0;
    for (; j + kTileColumns <= h(); j += kTileColumns) hidden_tile<kRows, kTileColumns>(x, r, j);
    for (; j < h(); ++j) hidden_tile<kRows, 1>(x, r, j);
  }

  // hidden[r.., j..] = x W0
  template <int kRows, int kColumns>
  FRACTALKERN_TARGET_INLINE void hidden_tile(const T* x, int64_t r, int64_t j) {
    V sum[kRows][kColumns] = {};
    const T* row = x + r * n();
    const V* weight = w0_ + j;
    for (int64_t i = 0; i < n(); ++i) {
#pragma GCC unroll 8
      for (int a = 0; a < kRows; ++a) {
        const V value = broadcast<V>(row[a * n() + i]);
#pragma GCC unroll 8
        for (int b = 0; b < kColumns; ++b) sum[a][b] += value * weight[i * h() + b];
      }
    }
    V* out = hidden_ + r * h() + j;
#pragma GCC unroll 8
    for (int a = 0; a < kRows; ++a)
#pragma GCC unroll 8
      for (int b = 0; b < kColumns; ++b) out[a * h() + b] = sum[a][b];
  }

  // hidden = phi(hidden). A pass of its own: beside a register tile's sums the constants and
  // temporaries of tanh do not fit the registers.
  FRACTALKERN_TARGET_INLINE void activate(int64_t rows) {
    const int64_t size = rows * h();
    if (args_.activation == Activation::kTanh) {
      const int64_t grouped = size / kTanhGroup * kTanhGroup;
      for (int64_t i = 0; i < grouped; i += kTanhGroup) tanh_group<kTanhGroup>(hidden_ + i);
      if constexpr (kHidden % kTanhGroup != 0 || kHidden == 0)
        for (int64_t i = grouped; i < size; ++i) tanh_group<1>(hidden_ + i);
    } else if (args_.activation == Activation::kRelu) {
      for (int64_t i = 0; i < size; ++i) hidden_[i] = hidden_[i] < T(0) ? V{} : hidden_[i];
    }
  }

  template <int kCount>
  FRACTALKERN_TARGET_INLINE static void tanh_group(V* values) {
    V group[kCount];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) group[i] = values[i];
    fast_tanh(group);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) values[i] = group[i];
  }

  // residual = prediction - y; returns the sum of its squares.
  FRACTALKERN_TARGET_INLINE V output_layer(const T* y, int64_t rows) {
    const T scale = static_cast<T>(1.0 / static_cast<double>(h()));
    V squares = {};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < k(); ++c) {
        V sum = {};
        for (int64_t j = 0; j < h(); ++j) sum += hidden_[r * h() + j] * w1_[j * k() + c];
        const V residual = sum * scale - y[r * k() + c];
        residual_[r * k() + c] = residual;
        squares += residual * residual;
      }
    }
    return squares;
  }

  // Adds to g1 and turns hidden into dL/d(x W0). With a single output w1 is a factor of each column
  // of that, and so of the columns of g0: update() multiplies by it, once for all rows.
  FRACTALKERN_TARGET_INLINE void backward_output(int64_t rows, T residual_scale) {
    for (int64_t r = 0; r < rows * k(); ++r) {
      residual_[r] *= residual_scale;
      const V size = residual_[r] < T(0) ? -residual_[r] : residual_[r];
      largest_residual_ = size > largest_residual_ ? size : largest_residual_;
    }
    int64_t j = 0;
    if (k() == 1) {
      for (; j + kOutputTile <= h(); j += kOutputTile) backward_single<kOutputTile>(rows, j);
      for (; j < h(); ++j) backward_single<1>(rows, j);
      return;
    }
    for (int64_t c = 0; c < k(); ++c) {
      for (j = 0; j + kOutputTile <= h(); j += kOutputTile)
        backward_columns<kOutputTile>(rows, c, j);
      for (; j < h(); ++j) backward_columns<1>(rows, c, j);
    }
  }

  template <int kColumns>
  FRACTALKERN_TARGET_INLINE void backward_single(int64_t rows, int64_t j) {
    V gradient[kColumns];
#pragma GCC unroll 8
    for (int b = 0; b < kColumns; ++b) gradient[b] = g1_[j + b];
    for (int64_t r = 0; r < rows; ++r) {
      const V residual = residual_[r];
      V* hidden = hidden_ + r * h() + j;
#pragma GCC unroll 8
      for (int b = 0; b < kColumns; ++b) {
        const V value = hidden[b];
        const V product = residual * value;
        gradient[b] += product;
        hidden[b] = args_.activation == Activation::kTanh   ? residual - product * value
                    : args_.activation == Activation::kRelu ? (value <= T(0) ? V{} : residual)
                                                            : residual;
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < kColumns; ++b) g1_[j + b] = gradient[b];
  }

  // ...for output c and hidden units j to j + kColumns, whose weights and gradients stay in
  // registers. With several outputs dL/dhidden is summed over them first.
  template <int kColumns>
  FRACTALKERN_TARGET_INLINE void backward_columns(int64_t rows, int64_t c, int64_t j) {
    V weight[kColumns], gradient[kColumns];
#pragma GCC unroll 8
    for (int b = 0; b < kColumns; ++b) {
      weight[b] = w1_[(j + b) * k() + c];
      gradient[b] = g1_[(j + b) * k() + c];
    }
    const bool last = c + 1 == k();
    for (int64_t r = 0; r < rows; ++r) {
      const V residual = residual_[r * k() + c];
      V* hidden = hidden_ + r * h() + j;
      V* back = back_ + r * h() + j;
#pragma GCC unroll 8
      for (int b = 0; b < kColumns; ++b) {
        const V value = hidden[b];
        gradient[b] += residual * value;
        V sum = residual * weight[b];
        if (c > 0) sum += back[b];
        if (last) {
          hidden[b] = times_slope(sum, value);
        } else {
          back[b] = sum;
        }
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < kColumns; ++b) g1_[(j + b) * k() + c] = gradient[b];
  }

  // gradient * phi'(z), from phi(z).
  FRACTALKERN_TARGET_INLINE V times_slope(V gradient, V value) const {
    if (args_.activation == Activation::kTanh) return gradient * (T(1) - value * value);
    if (args_.activation == Activation::kRelu) return value <= T(0) ? V{} : gradient;
    return gradient;
  }

  FRACTALKERN_TARGET_INLINE void backward_input(const T* x, int64_t rows) {
    int64_t i = 0;
    for (; i + kTileRows <= n(); i += kTileRows) gradient_rows<kTileRows>(x, rows, i);
    for (; i < n(); ++i) gradient_rows<1>(x, rows, i);
  }

  template <int kRows>
  FRACTALKERN_TARGET_INLINE void gradient_rows(const T* x, int64_t rows, int64_t i) {
    int64_t j = 0;
    for (; j + kTileColumns <= h(); j += kTileColumns)
      gradient_tile<kRows, kTileColumns>(x, rows, i, j);
    for (; j < h(); ++j) gradient_tile<kRows, 1>(x, rows, i, j);
  }

  // g0[i.., j..] += x^T dZ
  template <int kRows, int kColumns>
  FRACTALKERN_TARGET_INLINE void gradient_tile(const T* x, int64_t rows, int64_t i, int64_t j) {
    V sum[kRows][kColumns];
    V* out = g0_ + i * h() + j;
#pragma GCC unroll 8
    for (int a = 0; a < kRows; ++a)
#pragma GCC unroll 8
      for (int b = 0; b < kColumns; ++b) sum[a][b] = out[a * h() + b];
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int a = 0; a < kRows; ++a) {
        const V value = broadcast<V>(x[r * n() + i + a]);
#pragma GCC unroll 8
        for (int b = 0; b < kColumns; ++b) sum[a][b] += value * hidden_[r * h() + j + b];
      }
    }
#pragma GCC unroll 8
    for (int a = 0; a < kRows; ++a)
#pragma GCC unroll 8
      for (int b = 0; b < kColumns; ++b) out[a * h() + b] = sum[a][b];
  }

  // W -= lr * g; a lane of the result is nonzero where any weight changed.
  FRACTALKERN_TARGET Mask update() {
    Mask changed = {};
    for (int64_t j = 0; j < h(); ++j) {
      V factor = V{} + T(1), overflow = V{};
      if (k() == 1) {
        factor = w1_[j];
        // A residual times w1 that is infinite makes NaN with the slope 0 of a saturated unit. With
        // w1 taken out it would not, and divergence would be proven 50 steps later.
        if (args_.activation == Activation::kTanh) overflow = factor * largest_residual_ * T(0);
      }
      for (int64_t i = 0; i < n(); ++i) {
        V& weight = w0_[i * h() + j];
        const V next = weight - lr0_ * (factor * g0_[i * h() + j] + overflow);
        changed |= next != weight;
        weight = next;
      }
    }
    for (int64_t i = 0; i < h() * k(); ++i) {
      const V next = w1_[i] - lr1_ * g1_[i];
      changed |= next != w1_[i];
      w1_[i] = next;
    }
    return changed;
  }

  // Nonzero where every output has a NaN weight: all later predictions and losses are NaN.
  FRACTALKERN_TARGET Mask outputs_poisoned() const {
    Mask all = ~Mask{};
    for (int64_t c = 0; c < k(); ++c) {
      Mask any = {};
      for (int64_t j = 0; j < h(); ++j) any |= w1_[j * k() + c] != w1_[j * k() + c];
      all &= any;
    }
    return all;
  }

  // The output at the probe with the present weights.
  FRACTALKERN_TARGET V probe() {
    const T zero = T(0);
    hidden_layer(shared_.scaled_probe, 1);
    output_layer(&zero, 1);
    return residual_[0];
  }

  const TrainSweepArgs<T>& args_;
  const Shared<T>& shared_;
  V* w0_;        // [n, h], followed by w1
  V* w1_;        // [h, k]
  V* g0_;        // [n, h], followed by g1
  V* g1_;        // [h, k]
  V* hidden_;    // [chunk, h]
  V* residual_;  // [chunk, k]
  V* back_;      // [chunk, h], used with k > 1
  V lr0_, lr1_, offset_;
  V largest_residual_;  // of one step, scaled as in the gradient
  Lane lane_[kLanes];
  int64_t active_ = 0;
  bool drained_ = false;
};

template <class T>
FRACTALKERN_TARGET void train_worker(const WorkerArgs<T>& worker) {
  const TrainSweepArgs<T>& args = worker.shared.args;
  const bool square = args.inputs == args.hidden && args.outputs == 1;
  if (square && args.hidden == 8) {
    Block<T, 8, 8, 1>(worker).run();
  } else if (square && args.hidden == 16) {
    Block<T, 16, 16, 1>(worker).run();
  } else if (square && args.hidden == 32) {
    Block<T, 32, 32, 1>(worker).run();
  } else {
    Block<T, 0, 0, 0>(worker).run();
  }
}

FRACTALKERN_TARGET void train_double(const WorkerArgs<double>& worker) { train_worker(worker); }
FRACTALKERN_TARGET void train_float(const WorkerArgs<float>& worker) { train_worker(worker); }

template <class T>
FRACTALKERN_TARGET void tanh_array(const TanhArgs<T>& args) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  constexpr int64_t kLanes = sizeof(V) / sizeof(T);
  for (int64_t i = 0; i < args.size; i += kLanes) {
    const int64_t count = std::min(kLanes, args.size - i);
    V value = {};
    for (int64_t l = 0; l < count; ++l) value[l] = args.in[i + l];
    V group[kTanhGroup];  // as the kernel runs it, sharing a division
    for (V& copy : group) copy = value;
    fast_tanh(group);
    for (int64_t l = 0; l < count; ++l) args.out[i + l] = group[0][l];
  }
}

FRACTALKERN_TARGET void tanh_double(const TanhArgs<double>& args) { tanh_array(args); }
FRACTALKERN_TARGET void tanh_float(const TanhArgs<float>& args) { tanh_array(args); }

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_TARGET_INLINE
