// The engine of plain multiply-adds for one output: a lane a hidden unit, whose weights and
// gradient stay in registers; up to kWidth inputs and hidden units, the rest being zeros. A warp
// trains 32 / kWidth networks.
//
// Rows go in chunks of kRows. All lanes read the same value of x at once, 16 bytes of a row to an
// access, so that shared memory keeps up with two multiply-adds for each value.
#pragma once

#include "train_sweep/train_sweep_cuda_network.h"

namespace fractalkern::cuda {

template <class T, int kWidth, bool kShared>
class MultiplyAddEngine {
 public:
  using Index = int;
  static constexpr bool kDataInShared = kShared;
  static constexpr int kTeam = kWidth;
  static constexpr int kStride = kWidth + 16 / sizeof(T);
  static constexpr int kThreads = kWidth == 32 ? 256 : sizeof(T) == 4 ? 512 : 320;
  static constexpr int kBlocks = 1;

  __device__ __forceinline__ explicit MultiplyAddEngine(const Sweep<T>& sweep)
      : sweep_(sweep), args_(sweep.args), x_(sweep.x), y_(sweep.y), unit_(threadIdx.x % kTeam) {
    if constexpr (kDataInShared) {
      x_ = data_to_shared(sweep);
      y_ = x_ + offset(static_cast<int>(sweep.padded_rows) + 1);
    }
    real_ = unit_ < args_.hidden;
  }

  __device__ __forceinline__ void start(bool drawn, T added) {
    const bool used = drawn && real_;
    FRACTALKERN_UNROLL
    for (int i = 0; i < kWidth; ++i)
      w0_[i] = used && i < args_.inputs ? args_.w0[i * args_.hidden + unit_] + added : T(0);
    w1_ = used ? args_.w1[unit_] : T(0);
  }

  __device__ __forceinline__ void drift(T added) {
    FRACTALKERN_UNROLL
    for (int i = 0; i < kWidth; ++i) w0_[i] += real_ && i < args_.inputs ? added : T(0);
  }

  template <bool kGradient, class Rows>
  __device__ __forceinline__ T pass(Rows rows, int count) {
    return for_activation(args_.activation, [&](auto tanh) {
      return pass_with<kGradient, decltype(tanh)::value>(rows, count);
    });
  }

  __device__ __forceinline__ bool update(T lr0, T lr1) {
    // Why: update() of train_sweep_body.h.
    const T overflow = args_.activation == Activation::kTanh ? w1_ * largest_ * T(0) : T(0);
    bool changed = false;
    FRACTALKERN_UNROLL
    for (int i = 0; i < kWidth; ++i) {
      const T next = w0_[i] - lr0 * (w1_ * g0_[i] + overflow);
      if (!real_ || i >= args_.inputs) continue;
      changed |= next != w0_[i];
      w0_[i] = next;
    }
    const T next = w1_ - lr1 * g1_;
    if (real_) {
      changed |= next != w1_;
      w1_ = next;
    }
    return changed;
  }

  __device__ __forceinline__ bool poisoned() const { return w1_ != w1_; }

  __device__ __forceinline__ T predict(int row) {
    T hidden[kRows];
    const T output = for_activation(args_.activation, [&](auto tanh) {
      return forward<decltype(tanh)::value>(OneRow<int>{row}, 0, 1, hidden);
    });
    return __shfl_sync(kWholeWarp, output, 0, kTeam);
  }

 private:
  static constexpr int kRows = 8;

  // Of a row of x.
  static __device__ __forceinline__ auto offset(int row) {
    using Offset = std::conditional_t<kShared, int, int64_t>;
    return static_cast<Offset>(row) * kStride;
  }

  // phi of the chunk's rows; the prediction - y of row unit_ % kRows, 0 beyond the last.
  template <bool kTanh, class Rows>
  __device__ __forceinline__ T forward(Rows rows, int first, int count, T (&hidden)[kRows]) const {
    FRACTALKERN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      T x[kWidth];
      load(x_ + offset(rows(first + r)), x);
      hidden[r] = T(0);
      FRACTALKERN_UNROLL
      for (int i = 0; i < kWidth; ++i) hidden[r] += x[i] * w0_[i];
    }
    activate<kTanh>(hidden, args_.activation);
    if (first + kRows > count) {
      FRACTALKERN_UNROLL
      for (int r = 0; r < kRows; ++r)
        if (first + r >= count) hidden[r] = T(0);
    }
    T products[kRows];
    FRACTALKERN_UNROLL
    for (int r = 0; r < kRows; ++r) products[r] = hidden[r] * w1_;
    const T sum = sum_over_team<kRows, 1, kTeam>(products, unit_);
    const int own = first + unit_ % kRows;
    return own < count ? sum * sweep_.output_scale - y_[rows(own)] : T(0);
  }

  template <bool kGradient, bool kTanh, class Rows>
  __device__ __forceinline__ T pass_with(Rows rows, int count) {
    if constexpr (kGradient) {
      FRACTALKERN_UNROLL
      for (int i = 0; i < kWidth; ++i) g0_[i] = T(0);
      g1_ = largest_ = T(0);
    }
    T squares = T(0);
    for (int first = 0; first < count; first += kRows) {
      T hidden[kRows];
      T residual = forward<kTanh>(rows, first, count, hidden);
      squares += residual * residual;
      if constexpr (kGradient) {
        residual *= sweep_.residual_scale;
        largest_ = larger_magnitude(residual, largest_);
        backward<kTanh>(rows, first, residual, hidden);
      }
    }
    if constexpr (kGradient) largest_ = largest_over_bits<1, kRows / 2>(largest_);
    return sum_over_bits<1, kRows / 2>(squares) / static_cast<T>(count);
  }

  // Adds to the gradients; that of w0 without the factor w1, for update() to multiply.
  template <bool kTanh, class Rows>
  __device__ __forceinline__ void backward(Rows rows, int first, T residual, T (&hidden)[kRows]) {
    T back[kRows];
    FRACTALKERN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      back[r] = __shfl_sync(kWholeWarp, residual, r, kTeam);
      g1_ += back[r] * hidden[r];
    }
    slopes<kTanh>(hidden, args_.activation);
    // Reads x again: a chunk of it does not fit the registers. Without a barrier ptxas keeps it
    // and spills everything else.
    __syncwarp();
    FRACTALKERN_UNROLL
    for (int r = 0; r < kRows; ++r) back[r] *= hidden[r];
    FRACTALKERN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      T x[kWidth];
      load(x_ + offset(rows(first + r)), x);
      FRACTALKERN_UNROLL
      for (int i = 0; i < kWidth; ++i) g0_[i] += x[i] * back[r];
    }
  }

  const Sweep<T>& sweep_;
  const TrainSweepArgs<T>& args_;
  const T* x_;
  const T* y_;
  const int unit_;
  bool real_;  // not one of the zeros
  T w0_[kWidth], g0_[kWidth], w1_, g1_ = T(0);
  T largest_ = T(0);  // residual of a pass, scaled as in the gradient
};

}  // namespace fractalkern::cuda
